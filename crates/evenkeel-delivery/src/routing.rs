//! What a router must be asked differently from the others.
//!
//! ```text
//!                 Gateway API              Istio                    plain Services
//! weight          HTTPRoute                VirtualService           selector and annotation of the
//!                                                                   apex Service, labels of pods
//! more objects    -                        2 DestinationRules       -
//! confirmed by    the route's status       the time since it was    ready endpoints of the apex
//!                                          stored, or its status
//! deletion        deletes the route        deletes it, or restores  points the apex to the target
//!                                          what was there before
//! ```
//! All of it goes through the view ([`CanaryView::pct`], [`CanaryView::confirmed`],
//! [`CanaryView::set_weight`]), so that deciding is the same for all.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{
    Key, Obj,
    canary::{Phase, RouteSeen, RunStatus},
    httproute::ParentRef,
    weighted,
};
use evenkeel_base::format_duration;
use evenkeel_control::{Action, RouteWeight};

use crate::{
    CanaryView, istio, plain, reasons, route, router::Router, services::Names, time::elapsed,
};

/// After this long without the gateway's confirmation a person is warned.
pub(crate) const CONFIRMATION_SLOW: Duration = Duration::from_secs(30);

/// The canary's share in percent as a route has it; `None` when the route does not say: then it may
/// be anything.
pub(crate) fn canary_pct(obj: &Obj, names: &Names) -> Option<i32> {
    let (primary, canary) = (&names.primary, &names.canary);
    if obj.key().kind == weighted::virtual_service() {
        istio::canary_pct(obj, primary, canary)
    } else {
        Some(route::canary_pct(obj, primary, canary))
    }
}

/// Gives the canary this share and the primary the rest.
pub(crate) fn set_weight(route: Key, names: &Names, canary_pct: i32) -> Action {
    let share = |backend: &str, weight| RouteWeight { backend: backend.to_owned(), weight };
    let weights = vec![share(&names.primary, 100 - canary_pct), share(&names.canary, canary_pct)];
    Action::SetWeights { route, weights }
}

impl CanaryView {
    pub(crate) fn route_key(&self) -> Key {
        Key::new(self.router.kind(), self.obj.namespace(), &self.names.apex)
    }

    /// Why the canary's share is not known: the object that holds it may be there, and cannot be
    /// read. `None` when it is known.
    pub(crate) fn weight_unread(&self) -> Option<&str> {
        let apex = self.unread.services.get(&self.names.apex);
        let apex = apex.filter(|_| self.router == Router::Service);
        let unread = apex.or(self.unread.route.as_ref()).or(self.kind_missing.as_ref());
        unread.map(String::as_str)
    }

    /// The canary's share as the route has it; all of it while the route does not say, and the last
    /// known one while it cannot be read.
    pub(crate) fn pct(&self) -> i32 {
        if self.weight_unread().is_some() {
            return self.status.canary_weight;
        }
        if self.router == Router::Service {
            return plain::canary_pct(self);
        }
        let Some(route) = &self.route else { return 0 };
        // A route that was there before is not ours yet: whatever it sends where is no version.
        let before = matches!(self.status.phase, Phase::New | Phase::Initializing);
        canary_pct(route, &self.names).unwrap_or(if before { 0 } else { 100 })
    }

    /// The route, if it does not say which share the canary has.
    pub(crate) fn unweighted_route(&self) -> Option<&Arc<Obj>> {
        self.route.as_ref().filter(|route| canary_pct(route, &self.names).is_none())
    }

    /// Whether traffic goes by the route as it stands, as far as that can be known.
    pub(crate) fn confirmed(&self) -> bool {
        if !self.settings.confirm {
            return true;
        }
        match (self.router, &self.route) {
            (Router::Service, _) => plain::is_confirmed(self),
            (Router::Gateway, Some(route)) => route::is_confirmed(route),
            (Router::Istio, Some(route)) => {
                istio::says(route).unwrap_or_else(|| self.settling(&self.run).is_none())
            }
            (_, None) => false,
        }
    }

    /// Gives the canary this share. A route that has no rule for it gets one.
    pub(crate) fn set_weight(&self, canary_pct: i32) -> Action {
        match (self.router, self.unweighted_route()) {
            (Router::Service, _) => plain::set_weight(self, canary_pct),
            (Router::Istio, Some(route)) => {
                istio::rewrite(&self.canary.spec, &self.names, canary_pct, route)
            }
            _ => set_weight(self.route_key(), &self.names, canary_pct),
        }
    }

    /// Gives the canary this share, with all that belongs to it, in this order.
    pub(crate) fn weigh(&self, canary_pct: i32) -> Vec<Action> {
        match self.router {
            Router::Service => plain::weigh(self, canary_pct),
            Router::Gateway | Router::Istio => vec![self.set_weight(canary_pct)],
        }
    }

    /// The object that holds the weight.
    pub(crate) fn weighted(&self) -> Option<&Arc<Obj>> {
        match self.router {
            Router::Service => self.services.get(&self.names.apex),
            Router::Gateway | Router::Istio => self.route.as_ref(),
        }
    }

    /// The state of the route, if time must tell whether traffic goes by it, and since when.
    pub(crate) fn route_seen(&self) -> Option<RouteSeen> {
        let route = self.route.as_ref().filter(|_| self.router == Router::Istio)?;
        let (uid, generation) = (route.uid().to_owned(), route.generation());
        let known = self.run.route_seen.as_ref();
        let known = known.filter(|seen| seen.uid == uid && seen.generation == generation);
        Some(known.cloned().unwrap_or(RouteSeen { uid, generation, at: self.now }))
    }

    /// How long it still takes until traffic is taken to go by the route; `None` when it does.
    pub(crate) fn settling(&self, run: &RunStatus) -> Option<Duration> {
        let seen = self.route_seen()?;
        let noted = run.route_seen.as_ref().filter(|noted| **noted == seen);
        let waited = noted.map_or(Duration::ZERO, |noted| elapsed(noted.at, self.now));
        istio::SETTLING.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// How long a confirmation may take before its absence counts against a version.
    pub(crate) fn confirmation_max(&self) -> Duration {
        let settling = if self.router == Router::Istio { istio::SETTLING } else { Duration::ZERO };
        self.rules.interval.saturating_add(settling.saturating_mul(2))
    }

    /// A Gateway that exists and does not serve the route: a reason, and the words of who says so.
    pub(crate) fn gateway_trouble(&self) -> Option<(&'static str, String)> {
        let route = self.route.as_deref().filter(|_| self.router == Router::Gateway)?;
        let made = route.meta().creation_timestamp.as_ref().map(|time| time.0);
        let young = made.is_some_and(|made| elapsed(made, self.now) < CONFIRMATION_SLOW);
        self.gateway_objs
            .iter()
            .find_map(|(parent, gateway)| route::trouble(route, parent, gateway))
            .or_else(|| self.no_gateway(route))
            // An implementation takes a moment to answer.
            .filter(|(reason, _)| !young || *reason == reasons::ROUTE_REFUSED)
    }

    /// No Gateway is named, and nobody has accepted the route of the Service itself, as evenkeel's
    /// gateway or a mesh would.
    fn no_gateway(&self, route: &Obj) -> Option<(&'static str, String)> {
        let named = !self.gateways.is_empty()
            || !self.gateways_missing.is_empty()
            || !self.unread.gateways.is_empty();
        if named || route::is_accepted(route) || route::is_confirmed(route) {
            return None;
        }
        let message = format!(
            "nobody serves {}: spec.service.gatewayRefs names no Gateway, and no mesh has accepted \
             a route of Service {}. Name the Gateway, or run evenkeel's gateway or a mesh that \
             serves routes of Services",
            route.key(),
            self.names.apex
        );
        Some((reasons::NO_GATEWAY, message))
    }

    /// Why nobody reports that traffic goes by a weight, or by which other it goes; `None` where that
    /// is reported and as asked.
    pub(crate) fn unconfirmable(&self) -> Option<(&'static str, String)> {
        if self.router == Router::Service {
            return Some((reasons::REPLICA_RATIO, plain::rounded(self)?));
        }
        let route = self.route.as_deref()?;
        match self.router {
            Router::Service => None,
            Router::Gateway => {
                let who = route::accepts_only(route)?;
                let released = self.status.phase.is_release() && self.run.confirmed_at.is_none();
                if released && self.is_late() && !route::is_confirmed(route) {
                    let message = format!(
                        "{who} has not accepted generation {} of {} yet, which has weight {}: what \
                         it says is about an earlier one",
                        route.generation(),
                        route.key(),
                        self.pct()
                    );
                    return Some((reasons::CONFIRMATION_PENDING, message));
                }
                let message = format!(
                    "{who} reports that it accepts a route, not that it routes by it: the window \
                     of a weight starts when the route with that weight is accepted"
                );
                Some((reasons::ACCEPTED_ONLY, message))
            }
            Router::Istio if istio::says(route).is_some() => None,
            Router::Istio => {
                let message = format!(
                    "Istio does not report when its proxies route by a VirtualService: a weight \
                     counts as in use {} after it was stored",
                    format_duration(istio::SETTLING)
                );
                Some((reasons::NOT_REPORTED, message))
            }
        }
    }

    /// What is waited for before traffic is taken to go by this weight: who says so, of which state of
    /// the route. `None` where a route has no part in it.
    pub(crate) fn awaited(&self, pct: i32, generation: Option<i64>) -> Option<String> {
        let route = self.route_key();
        let state = generation.map(|generation| format!(" in generation {generation}"));
        let state = state.unwrap_or_default();
        match self.router {
            Router::Service => None,
            Router::Istio => {
                Some(format!("Waiting until proxies route by weight {pct} of {route}{state}"))
            }
            Router::Gateway => {
                let namespace = self.obj.namespace();
                let gateway = |parent: &ParentRef| {
                    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
                    format!("Gateway/{namespace}/{}", parent.name)
                };
                let who: Vec<_> = self.gateways.iter().map(gateway).collect();
                let who = if who.is_empty() { "a gateway".to_owned() } else { who.join(", ") };
                Some(format!("Waiting until {who} confirms weight {pct} of {route}{state}"))
            }
        }
    }

    /// Whether a weight has been without a confirmation for longer than is usual.
    fn is_late(&self) -> bool {
        let since = self.run.ticked_at.unwrap_or(self.now);
        self.run.step_failed_checks > 0 || elapsed(since, self.now) >= CONFIRMATION_SLOW
    }

    /// Time for data planes to forget a route that is gone.
    pub(crate) fn forgetting(&self) -> Duration {
        match self.router {
            Router::Istio => istio::SETTLING,
            // A deletion has no status to confirm it.
            Router::Gateway | Router::Service => Duration::from_secs(2),
        }
    }
}
