use std::{
    io::{self, Read as _},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use evenkeel_control::{Direction, Petition, Timer};
use jiff::Timestamp;

use crate::{Opinion, Policy, regular};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest reason that is read from the file.
const REASON_BYTES_MAX: u64 = 1024;

/// A switch in a person's hand that stops automation: all of it, or what makes things riskier.
///
/// A host sets it, or lets it follow a file: it is on while the file is there. The file's text is
/// the reason; when it begins with a time (`2026-01-02T03:04:05Z`), the switch is off from then on.
#[derive(Clone)]
pub struct Switch {
    kind: Kind,
    /// Where a person switches it, for the reason text.
    place: Arc<str>,
    on: Arc<RwLock<Option<On>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stop,
    Freeze,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct On {
    reason: String,
    until: Option<Timestamp>,
}

impl Switch {
    /// Holds everything but what makes things safer. `place` says where it is switched off again.
    pub fn stop(place: &str) -> Self {
        Self { kind: Kind::Stop, place: place.into(), on: Arc::default() }
    }

    /// Holds what makes things riskier, and nothing else.
    pub fn freeze(place: &str) -> Self {
        Self { kind: Kind::Freeze, place: place.into(), on: Arc::default() }
    }

    /// Switches it on with a reason, or off.
    pub fn set(&self, reason: Option<&str>) {
        let on = reason.map(On::parse);
        *self.on.write().unwrap_or_else(PoisonError::into_inner) = on;
    }

    /// Sets it by whether there is such a file. One that cannot be read counts as there.
    pub fn look_at(&self, file: &Path) {
        match read(file) {
            Ok(text) => self.set(Some(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.set(None),
            Err(error) => self.set(Some(&format!("{} is not readable: {error}", file.display()))),
        }
    }

    /// Keeps looking at the file until dropped.
    pub async fn follow(self, file: &Path, timer: Arc<dyn Timer>) {
        loop {
            self.look_at(file);
            timer.sleep(LOOK_EVERY).await;
        }
    }
}

impl Policy for Switch {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Stop => "stop",
            Kind::Freeze => "freeze",
        }
    }

    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        let concerned = match self.kind {
            Kind::Stop => petition.direction != Direction::Safer,
            Kind::Freeze => petition.direction == Direction::Riskier,
        };
        let on = self.on.read().unwrap_or_else(PoisonError::into_inner);
        let on = on.as_ref().filter(|on| on.until.is_none_or(|until| petition.now < until));
        let Some(on) = on.filter(|_| concerned) else { return Opinion::Allow };
        let what = match self.kind {
            Kind::Stop => "all automation is stopped",
            Kind::Freeze => "changes are frozen",
        };
        let why = if on.reason.is_empty() { String::new() } else { format!(" ({})", on.reason) };
        let end = match on.until {
            Some(until) => format!("until {until}, or until {} is removed", self.place),
            None => format!("until {} is removed", self.place),
        };
        Opinion::Hold { until: on.until, reason: format!("{what}{why} {end}") }
    }
}

impl On {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match first.parse() {
            Ok(until) => Self { reason: rest.trim().to_owned(), until: Some(until) },
            Err(_) => Self { reason: text.to_owned(), until: None },
        }
    }
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    regular::open(file)?.take(REASON_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use evenkeel_api::{Key, canary::Canary};
    use evenkeel_control::Action;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn judged(switch: &Switch, direction: Direction, second: i64) -> String {
        let action = Action::Scale { key: Key::of::<Pod>("shop", "a"), replicas: 1 };
        let opinion = switch.judge(&Petition {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "api"),
            action: &action,
            text: "",
            after: None,
            reason: "Test",
            before: None,
            direction,
            now: Timestamp::from_second(second).unwrap(),
        });
        match opinion {
            Opinion::Hold { reason, .. } => reason,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn stop_holds_all_but_what_makes_things_safer() {
        let stop = Switch::stop("DATA-DIR/stop");
        assert_eq!(judged(&stop, Direction::Riskier, 0), "Allow");
        stop.set(Some("incident 7\n"));
        let held = "all automation is stopped (incident 7) until DATA-DIR/stop is removed";
        assert_eq!(judged(&stop, Direction::Riskier, 0), held);
        assert_eq!(judged(&stop, Direction::Neutral, 0), held);
        assert_eq!(judged(&stop, Direction::Safer, 0), "Allow");
        stop.set(None);
        assert_eq!(judged(&stop, Direction::Riskier, 0), "Allow");
    }

    #[test]
    fn a_freeze_ends_by_itself_and_holds_riskier_actions_only() {
        let freeze = Switch::freeze("DATA-DIR/freeze");
        freeze.set(Some("1970-01-01T00:01:00Z Black Friday"));
        assert_eq!(
            judged(&freeze, Direction::Riskier, 59),
            "changes are frozen (Black Friday) until 1970-01-01T00:01:00Z, or until \
             DATA-DIR/freeze is removed"
        );
        assert_eq!(judged(&freeze, Direction::Neutral, 59), "Allow");
        assert_eq!(judged(&freeze, Direction::Riskier, 60), "Allow");
    }

    #[test]
    fn a_file_switches_it_and_one_that_cannot_be_read_counts() {
        let dir = std::env::temp_dir().join(format!("evenkeel-switch-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (stop, file) = (Switch::stop("stop"), dir.join("stop"));
        stop.look_at(&file);
        assert_eq!(judged(&stop, Direction::Riskier, 0), "Allow");
        fs::write(&file, "").unwrap();
        stop.look_at(&file);
        let held = "all automation is stopped until stop is removed";
        assert_eq!(judged(&stop, Direction::Riskier, 0), held);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        stop.look_at(&file);
        assert!(judged(&stop, Direction::Riskier, 0).contains("is not readable"));
        fs::remove_dir_all(&dir).unwrap();
        stop.look_at(&file);
        assert_eq!(judged(&stop, Direction::Riskier, 0), "Allow");
    }
}
