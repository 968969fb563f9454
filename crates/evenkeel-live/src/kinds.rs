use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::GroupKind;
use evenkeel_control::StoreError;
use http::{Request, header::ACCEPT};
use serde_json::Value;
use tokio::time::Instant;

use crate::{answer::Failure, client::ApiClient, counts::Verb, settings::LiveSettings};

/// All kinds of all versions in one answer: Kubernetes 1.30 and later, then 1.27 and later.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
                          application/json";
/// A look that failed is not repeated sooner: all watches fail together.
const FAILED_MIN: Duration = Duration::from_secs(1);

/// How a kind is reached: URL parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// `group/version`, or `v1`.
    pub(crate) api_version: String,
    /// URL segment.
    pub(crate) plural: String,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
}

impl Route {
    /// Path of the collection, or of one object when `name` is given.
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let root = if self.api_version.contains('/') { "/apis/" } else { "/api/" };
        let mut path = format!("{root}{}", self.api_version);
        if let Some(namespace) = namespace.filter(|ns| self.namespaced && !ns.is_empty()) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

/// The kinds that a server has. Read when an unknown one is asked for, by the first caller; all
/// other callers meanwhile share the answer. While something stays unknown, all of them together
/// look at most every [`LiveSettings::discovery_min`], and less and less often.
///
/// One path that is answered by "there is no such thing" says little: a proxy before the server may
/// have said it. The route stays known until a look at the list of kinds does not find it any more.
pub(crate) struct Kinds {
    known: Mutex<Known>,
    looking: tokio::sync::Mutex<Looks>,
}

#[derive(Default)]
struct Known {
    routes: BTreeMap<GroupKind, Route>,
    /// Kinds whose path the server did not know since the last look.
    doubted: BTreeSet<GroupKind>,
}

#[derive(Default)]
struct Looks {
    /// When the last look ended, and how.
    last: Option<(Instant, Result<(), StoreError>)>,
    /// Until when what it found is taken as complete.
    pause: Duration,
}

impl Kinds {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route of a kind. `Ok(None)`: the server does not have it.
    pub(crate) async fn find(
        &self,
        client: &ApiClient,
        kind: &GroupKind,
    ) -> Result<Option<Route>, StoreError> {
        let (route, doubted) = self.route(kind);
        if route.is_some() && !doubted {
            return Ok(route);
        }
        let mut looks = self.looking.lock().await;
        let (route, doubted) = self.route(kind);
        if route.is_some() && !doubted {
            return Ok(route);
        }
        if let Some((at, how)) = &looks.last {
            let valid = if how.is_ok() && !doubted { looks.pause } else { FAILED_MIN };
            if at.elapsed() < valid {
                return if route.is_some() { Ok(route) } else { how.clone().map(|()| None) };
            }
        }
        let found = discover(client).await.map_err(|error| error.translate("list of kinds"));
        let how = found.map(|found| self.learn(&mut looks, found, &client.settings));
        looks.last = Some((Instant::now(), how.clone()));
        match (how, route) {
            (Ok(()), _) => Ok(self.route(kind).0),
            // What was known counts until the server says something else.
            (Err(_), Some(route)) => Ok(Some(route)),
            (Err(error), None) => Err(error),
        }
    }

    /// The route of a kind as far as it is known, and whether there is doubt about it.
    fn route(&self, kind: &GroupKind) -> (Option<Route>, bool) {
        let known = self.known();
        (known.routes.get(kind).cloned(), known.doubted.contains(kind))
    }

    fn learn(&self, looks: &mut Looks, found: Found, settings: &LiveSettings) {
        let mut known = self.known();
        let Found { mut kinds, stale } = found;
        let away = known.routes.iter().filter(|(kind, _)| stale.contains(&*kind.group));
        for (kind, route) in away {
            kinds.entry(kind.clone()).or_insert_with(|| route.clone());
        }
        let (min, max) = (settings.discovery_min, settings.discovery_max);
        looks.pause = if known.routes == kinds { (looks.pause * 2).clamp(min, max) } else { min };
        *known = Known { routes: kinds, doubted: BTreeSet::new() };
    }

    /// The server did not know this route: another version may be served by now, or it was not the
    /// server that answered. The next caller looks, within the pause between two looks, too.
    pub(crate) fn doubt(&self, kind: &GroupKind, route: &Route) {
        let mut known = self.known();
        if known.routes.get(kind) == Some(route) {
            known.doubted.insert(kind.clone());
        }
    }
}

/// What a look at the list of kinds gave.
#[derive(Default)]
struct Found {
    kinds: BTreeMap<GroupKind, Route>,
    /// Groups whose own server is away: what they had before still counts.
    stale: BTreeSet<String>,
}

async fn discover(client: &ApiClient) -> Result<Found, Failure> {
    let mut found = Found::default();
    for path in ["/api", "/apis"] {
        let request = Request::get(path)
            .header(ACCEPT, AGGREGATED)
            .body(Vec::new())
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let body = client.exchange(Verb::Discovery, request).await?;
        let body: Value = serde_json::from_slice(&body)
            .map_err(|error| Failure::Broken(format!("list of kinds at {path}: {error}")))?;
        if body.get("kind").and_then(Value::as_str) != Some("APIGroupDiscoveryList") {
            return Err(Failure::Broken(format!(
                "{path} has no list of all kinds: Kubernetes 1.27 or later is needed"
            )));
        }
        if !body.get("items").is_some_and(Value::is_array) {
            return Err(Failure::Broken(format!("the list of kinds at {path} has no items")));
        }
        read(&body, &mut found);
    }
    Ok(found)
}

/// Takes the kinds out of an aggregated list. A kind that several versions have is reached through
/// the first one, which the server prefers.
fn read(body: &Value, found: &mut Found) {
    fn text<'a>(value: &'a Value, path: &str) -> &'a str {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }
    fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
        value.get(field).and_then(Value::as_array).into_iter().flatten()
    }
    for group in list(body, "items") {
        let name = text(group, "/metadata/name");
        for version in list(group, "versions") {
            let number = text(version, "/version");
            if text(version, "/freshness") == "Stale" {
                found.stale.insert(name.to_owned());
            }
            let api_version =
                if name.is_empty() { number.to_owned() } else { format!("{name}/{number}") };
            for resource in list(version, "resources") {
                let (kind, plural) =
                    (text(resource, "/responseKind/kind"), text(resource, "/resource"));
                if kind.is_empty() || plural.is_empty() {
                    continue;
                }
                found.kinds.entry(GroupKind::new(name, kind)).or_insert_with(|| Route {
                    api_version: api_version.clone(),
                    plural: plural.to_owned(),
                    namespaced: text(resource, "/scope") == "Namespaced",
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_is_reached_through_the_version_that_the_server_prefers() {
        let resource = |plural: &str, kind: &str| {
            json!({"resource": plural, "scope": "Namespaced",
                "responseKind": {"group": "autoscaling", "kind": kind}})
        };
        let body = json!({"items": [{"metadata": {"name": "autoscaling"}, "versions": [
            {"version": "v2", "resources": [resource("horizontalpodautoscalers", "HPA")]},
            {"version": "v1", "resources": [resource("horizontalpodautoscalers", "HPA"),
                resource("olds", "Old"), {"resource": "broken"}]},
        ]}]});
        let mut found = Found::default();
        read(&body, &mut found);
        let path =
            |kind| found.kinds[&GroupKind::new("autoscaling", kind)].path(Some("x"), Some("a"));
        assert_eq!(path("HPA"), "/apis/autoscaling/v2/namespaces/x/horizontalpodautoscalers/a");
        assert_eq!(path("Old"), "/apis/autoscaling/v1/namespaces/x/olds/a");
        assert_eq!(found.kinds.len(), 2);
    }

    #[test]
    fn a_group_whose_server_is_away_keeps_its_kinds() {
        let list = |freshness: &str, resources: Value| {
            json!({"items": [{"metadata": {"name": "metrics.k8s.io"}, "versions": [
                {"version": "v1beta1", "freshness": freshness, "resources": resources}]}]})
        };
        let pods = json!([{"resource": "pods", "scope": "Namespaced",
            "responseKind": {"kind": "PodMetrics"}}]);
        let kinds = Kinds::new();
        let has = |body: &Value| {
            let mut found = Found::default();
            read(body, &mut found);
            kinds.learn(&mut Looks::default(), found, &LiveSettings::default());
            kinds.known().routes.len()
        };
        assert_eq!(has(&list("Current", pods)), 1);
        assert_eq!(has(&list("Stale", json!([]))), 1, "away");
        assert_eq!(has(&list("Current", json!([]))), 0, "uninstalled");
    }
}
