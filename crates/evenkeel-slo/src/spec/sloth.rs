//! Sloth's two notations: the Kubernetes kind (camelCase) and its file form (`snake_case`).
//!
//! Under the Kubernetes kind the rule for the other casing is: what Sloth accepts means what it
//! means to Sloth. Only a document whose queries are written in `snake_case`, which Sloth
//! refuses, is read in both casings.

use serde_json::{Map, Value};

use super::fields::{Casing, Name, Reader, join};
use super::{Parsed, ReadOptions, Reading};
use crate::duration::PromDuration;
use crate::model::{
    Alert, Events, Metadata, PluginChain, PluginRef, Sli, Slo, SloGroup, SpecKind, merge,
};
use crate::{plugin, query, reasons, template};

const ERROR_QUERY: Name = Name::of("errorQuery", "error_query");
const TOTAL_QUERY: Name = Name::of("totalQuery", "total_query");
const ERROR_RATIO_QUERY: Name = Name::of("errorRatioQuery", "error_ratio_query");
const PAGE_ALERT: Name = Name::of("pageAlert", "page_alert");
const TICKET_ALERT: Name = Name::of("ticketAlert", "ticket_alert");
const SLO_PLUGINS: Name = Name::of("sloPlugins", "slo_plugins");
const GROUP_BY: Name = Name::of("groupBy", "group_by");

const fn plain(name: &'static str) -> Name {
    Name::plain(name)
}

/// Where the reader stands: what is the same for every SLO of a document.
struct Scope<'a, 'p> {
    service: String,
    labels: crate::model::Labels,
    group_chain: PluginChain,
    how: ReadOptions,
    reader: &'a mut Reader<'p>,
}

pub(super) fn read(
    parsed: &Parsed,
    kind: SpecKind,
    how: ReadOptions,
    reader: &mut Reader<'_>,
) -> Option<SloGroup> {
    let top = parsed.value.as_object()?;
    let kubernetes = kind == SpecKind::Kubernetes;
    let (spec, path) = if kubernetes { (top.get("spec")?.as_object()?, "spec") } else { (top, "") };
    reader.casing = match (kubernetes, how.reading) {
        (false, _) => Casing::Snake,
        (true, Reading::Sloth) => Casing::CamelQuietly,
        (true, Reading::Lenient) if has_snake_queries(spec) => Casing::Either,
        (true, Reading::Lenient) => Casing::Camel,
    };
    let mut known = vec![plain("service"), plain("labels"), SLO_PLUGINS, plain("slos")];
    if kubernetes {
        let fields = ["apiVersion", "kind", "metadata", "spec", "status"].map(plain);
        reader.unknown(top, "", &fields);
    } else {
        known.push(plain("version"));
    }
    reader.unknown(spec, path, &known);
    let mut scope = Scope {
        service: reader.text(spec, path, plain("service")),
        labels: reader.labels(spec, path, "labels"),
        group_chain: read_chain(reader, spec, path, SLO_PLUGINS),
        how,
        reader,
    };
    refuse_reserved(scope.reader, &scope.labels, path, how.reading);
    let list = scope.reader.list(spec, path, plain("slos"));
    if list.is_empty() {
        scope.reader.error(
            reasons::INVALID_SLO,
            &join(path, "slos"),
            "at least one SLO is required".to_owned(),
            "add an SLO",
        );
    }
    let mut slos = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let path = format!("{}[{index}]", join(path, "slos"));
        match value.as_object() {
            Some(map) => slos.extend(scope.slo(map, path)),
            None => scope.reader.error(
                reasons::INVALID_FIELD,
                &path,
                "must be a mapping".to_owned(),
                "write name, objective, sli and alerting",
            ),
        }
    }
    Some(SloGroup {
        source: parsed.source.clone(),
        object: parsed.object.clone(),
        kind,
        metadata: if kubernetes { read_metadata(scope.reader, top) } else { Metadata::default() },
        slos,
    })
}

fn read_metadata(reader: &mut Reader<'_>, top: &Map<String, Value>) -> Metadata {
    let Some(map) = reader.object(top, "", plain("metadata")) else { return Metadata::default() };
    Metadata {
        name: reader.text(map, "metadata", plain("name")),
        namespace: reader.text(map, "metadata", plain("namespace")),
        uid: reader.text(map, "metadata", plain("uid")),
        labels: reader.labels(map, "metadata", "labels"),
        annotations: reader.labels(map, "metadata", "annotations"),
    }
}

/// True when any query is written the way only the file form writes it.
fn has_snake_queries(spec: &Map<String, Value>) -> bool {
    let slos = spec.get("slos").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    slos.iter().any(|slo| {
        let has = |kind: &str, key: &str| slo.pointer(&format!("/sli/{kind}/{key}")).is_some();
        has("events", ERROR_QUERY.snake)
            || has("events", TOTAL_QUERY.snake)
            || has("raw", ERROR_RATIO_QUERY.snake)
    })
}

impl Scope<'_, '_> {
    fn slo(&mut self, map: &Map<String, Value>, path: String) -> Option<Slo> {
        let known = ["name", "description", "objective", "labels", "plugins", "sli", "alerting"];
        let mut known: Vec<_> = known.into_iter().map(plain).collect();
        known.extend([plain("window"), GROUP_BY]);
        self.reader.unknown(map, &path, &known);
        let name = self.reader.text(map, &path, plain("name"));
        let objective = self.reader.number(map, &path, plain("objective"));
        let labels = self.reader.labels(map, &path, "labels");
        refuse_reserved(self.reader, &labels, &path, self.how.reading);
        let window = self.window(map, &path);
        let sli = self.sli(map, &path, objective)?;
        let (page_alert, ticket_alert) = self.alerting(map, &path);
        Some(Slo {
            id: format!("{}-{name}", self.service),
            description: self.reader.text(map, &path, plain("description")),
            service: self.service.clone(),
            objective,
            window: window.unwrap_or(self.how.default_window),
            own_window: window.is_some(),
            labels: merge(&[&self.labels, &labels]),
            sli,
            page_alert,
            ticket_alert,
            plugins: self.plugins(map, &path),
            group_by: self.group_by(map, &path),
            name,
            sli_path: join(&path, "sli"),
            path,
        })
    }

    /// The window of this SLO, an extension of evenkeel.
    fn window(&mut self, map: &Map<String, Value>, path: &str) -> Option<PromDuration> {
        let text = self.reader.text(map, path, plain("window"));
        if text.is_empty() || self.how.reading == Reading::Sloth {
            return None;
        }
        let field = join(path, "window");
        match PromDuration::parse(&text) {
            Ok(window) if !window.is_zero() => {
                self.reader.warn(
                    reasons::EXTENSION_FIELD,
                    &field,
                    format!("the window {window} of this SLO is read by evenkeel only"),
                    "",
                );
                Some(window)
            }
            Ok(_) => {
                let message = "time window is required".to_owned();
                self.reader.error(reasons::INVALID_FIELD, &field, message, "give e.g. 30d");
                None
            }
            Err(error) => {
                let fix = "give a duration such as 30d";
                self.reader.error(reasons::INVALID_FIELD, &field, error.to_string(), fix);
                None
            }
        }
    }

    fn group_by(&mut self, map: &Map<String, Value>, path: &str) -> Vec<String> {
        if self.how.reading == Reading::Sloth {
            return Vec::new();
        }
        let list = self.reader.list(map, path, GROUP_BY);
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    fn sli(&mut self, map: &Map<String, Value>, path: &str, objective: f64) -> Option<Sli> {
        let mut out = Sli::default();
        let Some(sli) = self.reader.object(map, path, plain("sli")) else { return Some(out) };
        let path = join(path, "sli");
        self.reader.unknown(sli, &path, &[plain("events"), plain("raw"), plain("plugin")]);
        if let Some(events) = self.reader.object(sli, &path, plain("events")) {
            let path = join(&path, "events");
            self.reader.unknown(events, &path, &[ERROR_QUERY, TOTAL_QUERY]);
            out.events = Some(Events {
                error_query: self.reader.text(events, &path, ERROR_QUERY),
                total_query: self.reader.text(events, &path, TOTAL_QUERY),
            });
        }
        if let Some(raw) = self.reader.object(sli, &path, plain("raw")) {
            let path = join(&path, "raw");
            self.reader.unknown(raw, &path, &[ERROR_RATIO_QUERY]);
            out.raw = Some(self.reader.text(raw, &path, ERROR_RATIO_QUERY));
        }
        if let Some(used) = self.reader.object(sli, &path, plain("plugin")) {
            let path = join(&path, "plugin");
            self.reader.unknown(used, &path, &[plain("id"), plain("options")]);
            let id = self.reader.text(used, &path, plain("id"));
            let options = self.reader.labels(used, &path, "options");
            let context = plugin::SliContext { objective, labels: &self.labels, options: &options };
            match plugin::sli_query(&id, &context) {
                Ok(query) => out.raw = Some(query),
                Err(error) => {
                    self.reader.error(error.reason(), &path, error.to_string(), &error.fix());
                    return None;
                }
            }
        }
        if self.how.reading == Reading::Lenient {
            let field = join(&path, if out.events.is_some() { "events" } else { "raw" });
            infer_window(self.reader, &mut out, &field);
        }
        Some(out)
    }

    fn alerting(&mut self, map: &Map<String, Value>, path: &str) -> (Option<Alert>, Option<Alert>) {
        let empty = Map::new();
        let alerting = self.reader.object(map, path, plain("alerting")).unwrap_or(&empty);
        let path = join(path, "alerting");
        let known =
            [plain("name"), plain("labels"), plain("annotations"), PAGE_ALERT, TICKET_ALERT];
        self.reader.unknown(alerting, &path, &known);
        let shared = Alert {
            name: self.reader.text(alerting, &path, plain("name")),
            labels: self.reader.labels(alerting, &path, "labels"),
            annotations: self.reader.labels(alerting, &path, "annotations"),
        };
        let mut one = |name: Name| {
            let own = self.reader.object(alerting, &path, name).unwrap_or(&empty);
            let path = join(&path, name.camel);
            let known = [plain("disable"), plain("labels"), plain("annotations")];
            self.reader.unknown(own, &path, &known);
            let disabled = self.reader.flag(own, &path, plain("disable"));
            let labels = self.reader.labels(own, &path, "labels");
            let annotations = self.reader.labels(own, &path, "annotations");
            (!disabled).then(|| Alert {
                name: shared.name.clone(),
                labels: merge(&[&shared.labels, &labels]),
                annotations: merge(&[&shared.annotations, &annotations]),
            })
        };
        (one(PAGE_ALERT), one(TICKET_ALERT))
    }

    fn plugins(&mut self, map: &Map<String, Value>, path: &str) -> PluginChain {
        let own = read_chain(self.reader, map, path, plain("plugins"));
        let mut chain = if own.override_previous {
            PluginChain { override_previous: true, plugins: Vec::new() }
        } else {
            self.group_chain.clone()
        };
        chain.plugins.extend(own.plugins);
        chain
    }
}

fn read_chain(
    reader: &mut Reader<'_>,
    map: &Map<String, Value>,
    path: &str,
    name: Name,
) -> PluginChain {
    let mut out = PluginChain::default();
    let Some(chain) = reader.object(map, path, name) else { return out };
    let path = join(path, name.camel);
    reader.unknown(chain, &path, &[plain("overridePrevious"), plain("chain")]);
    out.override_previous = reader.flag(chain, &path, plain("overridePrevious"));
    for (index, item) in reader.list(chain, &path, plain("chain")).iter().enumerate() {
        let path = format!("{path}.chain[{index}]");
        let Some(item) = item.as_object() else {
            reader.error(reasons::INVALID_FIELD, &path, "must be a mapping".to_owned(), "");
            continue;
        };
        reader.unknown(item, &path, &[plain("id"), plain("config"), plain("priority")]);
        #[expect(clippy::cast_possible_truncation, reason = "a priority is a small whole number")]
        let priority = reader.number(item, &path, plain("priority")) as i64;
        out.plugins.push(PluginRef {
            id: reader.text(item, &path, plain("id")),
            config: item.get("config").filter(|c| !c.is_null()).cloned().unwrap_or_else(empty),
            priority,
            path,
        });
    }
    out
}

fn empty() -> Value {
    Value::Object(Map::new())
}

/// Labels by which an SLO's rules and alerts find its series; it can have no other of that name.
pub const RESERVED_LABELS: [&str; 4] = ["sloth_id", "sloth_service", "sloth_slo", "sloth_window"];

/// Sloth accepts a label of its own as one of the SLO's, and the alerts then look for series that
/// are not there.
fn refuse_reserved(
    reader: &mut Reader<'_>,
    labels: &crate::model::Labels,
    path: &str,
    reading: Reading,
) {
    for key in RESERVED_LABELS.into_iter().filter(|key| labels.contains_key(*key)) {
        let field = join(&join(path, "labels"), key);
        let message = format!(
            "{key} is the label by which the rules and alerts of an SLO find its series; with \
             another value they find none"
        );
        let fix = "rename the label";
        match reading {
            Reading::Lenient => reader.error(reasons::RESERVED_LABEL, &field, message, fix),
            Reading::Sloth => reader.warn(reasons::RESERVED_LABEL, &field, message, fix),
        }
    }
}

/// Replaces one literal range, the same in every query, by the window variable.
pub(super) fn infer_window(reader: &mut Reader<'_>, sli: &mut Sli, field: &str) {
    let queries: Vec<&mut String> = match (&mut sli.events, &mut sli.raw) {
        (Some(events), None) => vec![&mut events.error_query, &mut events.total_query],
        (None, Some(raw)) => vec![raw],
        _ => return,
    };
    let lacking = queries.iter().filter(|q| !template::has_window(q)).count();
    if lacking == 0 || queries.iter().any(|q| q.trim().is_empty()) {
        return;
    }
    let refuse = |reader: &mut Reader<'_>, message: String| {
        let fix = "write {{.window}} as the range of every selector: rate(x[{{.window}}])";
        reader.error(reasons::WINDOW_MISSING, field, message, fix);
    };
    if lacking < queries.len() {
        let message = "one query uses {{.window}} and the other does not".to_owned();
        return refuse(reader, message);
    }
    let mut found: Vec<String> = Vec::new();
    for query in &queries {
        match query::ranges(query) {
            Some(ranges) if !ranges.is_empty() => {
                found.extend(ranges.into_iter().map(|r| r.trim().to_owned()));
            }
            Some(_) => {
                let message = "a query has no range at all, so no window can be inferred";
                return refuse(reader, message.to_owned());
            }
            None => return refuse(reader, "a bracket or quote is not closed".to_owned()),
        }
    }
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] if PromDuration::parse(one).is_ok_and(|d| !d.is_zero()) => {
            for query in queries {
                *query = query::replace_ranges(query, "{{.window}}");
            }
            reader.warn(
                reasons::WINDOW_INFERRED,
                field,
                format!("[{one}] is taken as [{{{{.window}}}}]"),
                &format!("write [{{{{.window}}}}] instead of [{one}]"),
            );
        }
        [one] => refuse(reader, format!("[{one}] cannot be taken as the window")),
        many => {
            refuse(reader, format!("different ranges ({}) leave the window open", many.join(", ")));
        }
    }
}
