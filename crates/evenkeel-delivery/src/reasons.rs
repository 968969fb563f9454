//! Every reason that events, conditions and plans of this crate carry.

/// Reason of every event, as Flagger's.
pub const SYNCED: &str = "Synced";

/// Condition that says whether the spec can be acted on; only there while it cannot.
pub const ACCEPTED: &str = "Accepted";
/// Flagger's one condition.
pub const PROMOTED: &str = "Promoted";
/// Condition that says whether the error budget lets a new version go ahead; only there while it
/// does not.
pub const BUDGET: &str = "BudgetAllows";

/// Condition that says whether Services, route and copies stay as they should be; only there while
/// they do not.
pub const IN_SYNC: &str = "ObjectsInSync";

/// Condition that says whether the primary can answer the requests that go to it; only there while it
/// cannot.
pub const PRIMARY_AVAILABLE: &str = "PrimaryAvailable";
/// The primary is scaled to zero.
pub const NO_REPLICAS: &str = "NoReplicas";

/// Condition that says whether the primary runs the version that was promoted; only there while it
/// does not.
pub const PRIMARY_AS_PROMOTED: &str = "PrimaryAsPromoted";
/// The primary's pod template is another than was promoted.
pub const PRIMARY_DIFFERS: &str = "PrimaryDiffers";

/// Condition that names Gateways of the spec that do not exist; only there while some do not.
pub const GATEWAYS: &str = "GatewaysFound";

/// Condition that says whether `spec.suspend: true` stops evenkeel; only there while it does not.
pub const SUSPEND_HEEDED: &str = "SuspendHeeded";
/// The Canary was handed over: `spec.suspend` is the other controller's.
pub const HANDED_OVER: &str = "HandedOver";

/// A Gateway that the spec names refuses the route.
pub const ROUTE_REFUSED: &str = "RouteRefused";
/// The spec names no Gateway, and nobody serves the route without one.
pub const NO_GATEWAY: &str = "NoGateway";
/// No implementation serves a Gateway that the spec names.
pub const GATEWAY_UNSERVED: &str = "GatewayUnserved";

/// Condition that says whether somebody reports that traffic goes by the weight that was asked for;
/// only there while nobody does, or by another one.
pub const WEIGHTS_CONFIRMED: &str = "WeightsConfirmed";
/// The implementation of the Gateway API says that it accepts a route, and no more.
pub const ACCEPTED_ONLY: &str = "AcceptedOnly";
/// A plain Service shares requests by pods: the share in force is another than was asked for.
pub const REPLICA_RATIO: &str = "ReplicaRatio";
/// Istio says nothing: time must do.
pub const NOT_REPORTED: &str = "NotReported";

/// A Gateway that the spec names does not exist.
pub const GATEWAY_MISSING: &str = "GatewayMissing";
/// Condition that names what could not be read in the last look; only there while something could
/// not.
pub const READABLE: &str = "ObjectsReadable";
/// An object could not be read this time.
pub const READ_FAILED: &str = "ReadFailed";
/// Condition that says whether alerts reach the people they are for; only there while they do not.
pub const ALERTS: &str = "AlertsDelivered";

/// Condition that says whether the metrics can be asked for; only there while some cannot.
pub const METRICS: &str = "MetricsAvailable";

/// A `MetricTemplate` that the spec names does not exist.
pub const TEMPLATE_MISSING: &str = "TemplateMissing";
/// A metrics server did not answer.
pub const SERVER_UNREACHABLE: &str = "ServerUnreachable";
/// A metrics server refused a query.
pub const QUERY_REFUSED: &str = "QueryRefused";
/// An `AlertProvider` that the spec names does not exist.
pub const PROVIDER_MISSING: &str = "ProviderMissing";
/// An alert provider may be there, and may not be read.
pub const PROVIDER_UNREAD: &str = "ProviderUnread";
/// An `AlertProvider` that the spec names can deliver nothing as it is.
pub const PROVIDER_INVALID: &str = "ProviderInvalid";
/// A provider did not accept a notification.
pub const NOT_DELIVERED: &str = "NotificationFailed";
/// What was set does not last.
pub const REPAIR_NOT_KEPT: &str = "RepairNotKept";
/// Another Canary has this target.
pub const DUPLICATE_TARGET: &str = "DuplicateTarget";
/// What a Canary would make is there already, and somebody else's.
pub const NAME_TAKEN: &str = "NameTaken";
/// A field cannot be acted on.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// The API server does not have the kind that holds the weight.
pub const KIND_MISSING: &str = "KindMissing";
/// An object that is needed to decide is there and cannot be read, or a part of the status.
pub const UNREADABLE: &str = "ObjectUnreadable";
/// The canary may have traffic, and the route that says how much cannot be read.
pub const WEIGHT_UNKNOWN: &str = "WeightUnknown";
/// The API server does not keep our part of the status.
pub const STATUS_PRUNED: &str = "StatusPruned";
/// The target is not there.
pub const TARGET_MISSING: &str = "TargetMissing";
/// The primary copy is gone and cannot be made from a version that was judged.
pub const PRIMARY_MISSING: &str = "PrimaryMissing";

/// Every condition that no other controller writes.
pub(crate) const CONDITIONS: [&str; 11] = [
    ACCEPTED,
    BUDGET,
    IN_SYNC,
    PRIMARY_AVAILABLE,
    PRIMARY_AS_PROMOTED,
    GATEWAYS,
    SUSPEND_HEEDED,
    WEIGHTS_CONFIRMED,
    READABLE,
    ALERTS,
    METRICS,
];

/// `spec.suspend` is set.
pub const SUSPENDED: &str = "Suspended";
/// Another controller looks after the Canary, too.
pub const IN_BOTH_HANDS: &str = "InBothHands";
/// A release that another controller began is under way.
pub const RELEASE_OF_ANOTHER: &str = "ReleaseOfAnother";
/// What was ours on the Canary is taken off: another controller goes on.
pub const HANDED_BACK: &str = "HandedBack";
/// Objects are being made.
pub const MAKING_OBJECTS: &str = "MakingObjects";
/// How repairs went was written down.
pub const REPAIRS_NOTED: &str = "RepairsNoted";
/// An object on which traffic depends is not as it should be, and the next attempt is not due.
pub const REPAIR_PENDING: &str = "RepairPending";
/// The canary has no replica that serves, and gets no traffic.
pub const CANARY_DOWN: &str = "CanaryDown";
/// The primary copy is not ready.
pub const PRIMARY_UNREADY: &str = "PrimaryUnready";
/// The canary is not ready.
pub const CANARY_UNREADY: &str = "CanaryUnready";
/// Endpoints of a ready workload have not shown up yet.
pub const ENDPOINTS_PENDING: &str = "EndpointsPending";
/// The gateway does not route by the present weight yet.
pub const CONFIRMATION_PENDING: &str = "ConfirmationPending";
/// Objects stand; the target is put out of the way.
pub const INITIALIZATION_DONE: &str = "InitializationDone";
/// No new version.
pub const NOTHING_NEW: &str = "NothingNew";
/// A new version is about to be judged.
pub const NEW_REVISION: &str = "NewRevision";
/// The version changed while it was judged.
pub const REVISION_CHANGED: &str = "RevisionChanged";
/// What kept the Canary from being acted on is fixed, and its run goes on.
pub const RESUMED: &str = "Resumed";
/// The route had another weight than the status.
pub const WEIGHT_ADOPTED: &str = "WeightAdopted";
/// The gateway routes by the present weight.
pub const WEIGHT_CONFIRMED: &str = "WeightConfirmed";
/// The interval is running.
pub const INTERVAL_RUNNING: &str = "IntervalRunning";
/// A webhook is asked.
pub const ASKING_HOOK: &str = "AskingHook";
/// An approval is pending.
pub const APPROVAL_PENDING: &str = "ApprovalPending";
/// The error budget does not allow a new version now.
pub const BUDGET_PENDING: &str = "BudgetPending";
/// What is written of the error budget cannot be read.
pub const BUDGET_UNREADABLE: &str = "BudgetUnreadable";
/// The error budget was last computed too long ago.
pub const BUDGET_NOT_LOOKED_AT: &str = "BudgetNotLookedAt";
/// Metrics that will judge the version cannot be asked for, and no traffic goes to it until then.
pub const METRICS_PENDING: &str = "MetricsPending";
/// Data for a check has not come in yet.
pub const DATA_PENDING: &str = "DataPending";
/// A check failed.
pub const CHECK_FAILED: &str = "CheckFailed";
/// The next weight is due.
pub const STEP_DUE: &str = "StepDue";
/// The version is good; the primary takes it over.
pub const PROMOTING: &str = "Promoting";
/// The primary takes its traffic back.
pub const ROUTING_TO_PRIMARY: &str = "RoutingToPrimary";
/// The version is everywhere.
pub const PROMOTED_FULLY: &str = "PromotionCompleted";
/// The primary could not take the version over.
pub const PROMOTION_FAILED: &str = "PromotionFailed";
/// The version is taken out of traffic.
pub const ROLLING_BACK: &str = "RollingBack";
/// The version is out of traffic and stopped.
pub const ROLLED_BACK: &str = "RolledBack";
/// Webhooks of type `post-rollout` are called.
pub const TELLING_END: &str = "TellingEnd";
/// The Canary is being deleted; the target takes over again.
pub const REVERTING: &str = "Reverting";
/// A hash of another tool was replaced by ours.
pub const REVISION_ADOPTED: &str = "RevisionAdopted";
/// More was needed to decide than could be observed.
pub const VIEW_INCOMPLETE: &str = "ViewIncomplete";
