//! Every reason a finding, condition or decision of this crate can carry.

/// What was ours on an object is taken off: another controller goes on.
pub const HANDED_BACK: &str = "HandedBack";
/// The text is not YAML, or not a mapping.
pub const INVALID_YAML: &str = "InvalidYaml";
/// No reader knows this kind or version.
pub const UNKNOWN_KIND: &str = "UnknownKind";
/// A field has the wrong type or an impossible value.
pub const INVALID_FIELD: &str = "InvalidField";
/// No reader knows this field; it has no effect.
pub const UNKNOWN_FIELD: &str = "UnknownField";
/// The other casing of a known field; Sloth ignores it here, and so do we.
pub const IGNORED_FIELD: &str = "IgnoredField";
/// `snake_case` fields under the Kubernetes kind were accepted.
pub const DEPRECATED_FIELD_CASING: &str = "DeprecatedFieldCasing";
/// One field is there in both casings.
pub const FIELD_CASING_CONFLICT: &str = "FieldCasingConflict";
/// A literal range was replaced by the window variable.
pub const WINDOW_INFERRED: &str = "WindowInferred";
/// A query has no window variable, and none could be inferred.
pub const WINDOW_MISSING: &str = "WindowMissing";
/// A label that Kubernetes wants as a string was written as a number or boolean.
pub const LABEL_NOT_STRING: &str = "LabelNotString";
/// A plugin id that is not built in.
pub const UNKNOWN_PLUGIN: &str = "UnknownPlugin";
/// A plugin refused its configuration or the SLO.
pub const PLUGIN_REFUSED: &str = "PluginRefused";
/// One of Sloth's own checks failed.
pub const INVALID_SLO: &str = "InvalidSlo";
/// Two SLOs have one id.
pub const DUPLICATE_ID: &str = "DuplicateId";
/// The catalogue has no alert windows for this period.
pub const UNKNOWN_PERIOD: &str = "UnknownPeriod";
/// An error ratio of 1 would still be below the alert's threshold.
pub const ALERT_CANNOT_FIRE: &str = "AlertCannotFire";
/// The objective leaves no error budget.
pub const NO_BUDGET: &str = "NoBudget";
/// A grouped SLO whose query drops the grouping label.
pub const GROUP_LABEL_LOST: &str = "GroupLabelLost";
/// An extension of evenkeel that other generators do not know.
pub const EXTENSION_FIELD: &str = "ExtensionField";
/// A label by which an SLO's own rules find its series.
pub const RESERVED_LABEL: &str = "ReservedLabel";
/// Nothing was generated.
pub const NO_RULES: &str = "NoRules";

/// The reasons of findings.
pub(crate) const FINDINGS: [&str; 21] = [
    INVALID_YAML,
    UNKNOWN_KIND,
    INVALID_FIELD,
    UNKNOWN_FIELD,
    IGNORED_FIELD,
    DEPRECATED_FIELD_CASING,
    FIELD_CASING_CONFLICT,
    WINDOW_INFERRED,
    WINDOW_MISSING,
    LABEL_NOT_STRING,
    UNKNOWN_PLUGIN,
    PLUGIN_REFUSED,
    INVALID_SLO,
    DUPLICATE_ID,
    UNKNOWN_PERIOD,
    ALERT_CANNOT_FIRE,
    NO_BUDGET,
    GROUP_LABEL_LOST,
    EXTENSION_FIELD,
    RESERVED_LABEL,
    NO_RULES,
];

/// Nothing to write; the counters are looked at again soon.
pub const LOOKING: &str = "Looking";
/// The generated rules are not what stands.
pub const RULES_CHANGED: &str = "RulesChanged";
/// The rules may not be read.
pub const RULES_UNREAD: &str = "RulesUnread";
/// A budget went from one state to another.
pub const BUDGET_STATE: &str = "BudgetState";
/// What a change cost is known.
pub const CHANGE_SETTLED: &str = "ChangeSettled";
/// A policy was read.
pub const POLICY_CHECKED: &str = "PolicyChecked";
/// An SLO is gone, and its rules with it.
pub const SLO_GONE: &str = "SloGone";
/// Nothing to write for a Canary.
pub const ANSWERED: &str = "Answered";
/// What a Canary may do has changed, or is said again.
pub const ANSWER_CHANGED: &str = "AnswerChanged";

/// The budget is untouched, or nearly.
pub const BUDGET_HEALTHY: &str = "BudgetHealthy";
/// Some of the budget is gone.
pub const BUDGET_CAUTION: &str = "BudgetCaution";
/// Little is left, or it burns steadily.
pub const BUDGET_LOW: &str = "BudgetLow";
/// The budget is gone.
pub const BUDGET_FROZEN: &str = "BudgetFrozen";
/// The budget burns fast.
pub const BUDGET_BURNING: &str = "BudgetBurning";
/// There is no data about the budget.
pub const BUDGET_UNKNOWN: &str = "BudgetUnknown";
/// The window is still being counted.
pub const BUDGET_COUNTING: &str = "BudgetCounting";
/// The service never had an event.
pub const NO_TRAFFIC_YET: &str = "NoTrafficYet";
/// A policy that is not valid may have been for this one.
pub const POLICY_INVALID: &str = "PolicyInvalid";
/// A Canary names an SLO that is not there.
pub const SLO_MISSING: &str = "SloMissing";
/// A Canary names an SLO whose budget cannot be read.
pub const SLO_UNREADABLE: &str = "SloUnreadable";

/// The counters are counted.
pub const COUNTED: &str = "Counted";
/// The window is being counted.
pub const COUNTING: &str = "Counting";
/// The metrics did not answer.
pub const NOT_COUNTED: &str = "NotCounted";
/// The queries find no series.
pub const NO_SERIES: &str = "NoSeries";
/// There is no readable SLO.
pub const NOTHING_TO_COUNT: &str = "NothingToCount";
/// A maintenance is not valid, so that it excludes nothing.
pub const MAINTENANCE_IGNORED: &str = "MaintenanceIgnored";
