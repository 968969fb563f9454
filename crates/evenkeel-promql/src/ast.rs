//! The syntax tree of `PromQL`.

use crate::functions::Function;
use crate::matcher::Matcher;
use std::sync::Arc;

/// Bytes of the query text that a node was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A parsed and type-checked query with its text.
#[derive(Clone, Debug)]
pub struct Query {
    /// The text it was parsed from.
    pub text: Arc<str>,
    /// Its root.
    pub expr: Expr,
}

/// What an expression evaluates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One number.
    Scalar,
    /// Text.
    String,
    /// One sample per series.
    Vector,
    /// Several samples per series.
    Matrix,
}

impl ValueType {
    /// As messages call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Its position in the text.
    pub span: Span,
    /// What it is.
    pub kind: ExprKind,
    /// Height of the tree below, bounded by the parser so that no recursion overflows.
    pub(crate) height: u16,
}

/// The kinds of nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number; `is_duration` when it was written as one (`5m`).
    Number {
        /// The value (seconds for a duration).
        value: f64,
        /// Whether it was written as a duration.
        is_duration: bool,
    },
    /// A text.
    Text(String),
    /// Parentheses.
    Paren(Box<Expr>),
    /// `-x` or `+x`.
    Unary {
        /// Whether it negates.
        negate: bool,
        /// The operand.
        expr: Box<Expr>,
    },
    /// An operator between two expressions.
    Binary(Box<Binary>),
    /// An aggregation.
    Aggregate(Box<Aggregate>),
    /// A function call.
    Call {
        /// The function.
        function: &'static Function,
        /// Its arguments.
        args: Vec<Expr>,
    },
    /// An instant vector selector.
    Selector(Box<Selector>),
    /// A range vector selector.
    Range {
        /// The series; offset and @ live there.
        selector: Box<Selector>,
        /// How far back.
        range: Length,
    },
    /// A subquery.
    Subquery(Box<Subquery>),
}

/// An operator between two expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// Whether a comparison returns 0 or 1 instead of filtering.
    pub is_bool: bool,
    /// How series pair up; `None` unless both sides are vectors.
    pub matching: Option<Matching>,
}

/// How many series of each side pair up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cardinality {
    /// One with one.
    #[default]
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// How series of two vectors pair up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// How many.
    pub cardinality: Cardinality,
    /// Labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether `labels` came from `on`.
    pub on: bool,
    /// Labels copied from the "one" side.
    pub include: Vec<String>,
    /// Value for series that are missing on the left.
    pub fill_left: Option<f64>,
    /// Value for series that are missing on the right.
    pub fill_right: Option<f64>,
}

/// Binary operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named by what they do")]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    TrimUpper,
    TrimLower,
    And,
    Or,
    Unless,
}

impl BinaryOp {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterEqual => ">=",
            Self::LessEqual => "<=",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    /// Whether it compares.
    pub fn is_comparison(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::NotEqual
                | Self::Greater
                | Self::Less
                | Self::GreaterEqual
                | Self::LessEqual
        )
    }

    /// Whether it works on sets of series.
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }

    /// Binding strength; higher binds tighter.
    pub fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Greater
            | Self::Less
            | Self::GreaterEqual
            | Self::LessEqual
            | Self::TrimUpper
            | Self::TrimLower => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod | Self::Atan2 => 5,
            Self::Pow => 6,
        }
    }
}

/// An aggregation.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The operator.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Expr,
    /// The parameter (`k`, quantile, label name).
    pub param: Option<Expr>,
    /// Labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// Whether `grouping` came from `without`.
    pub without: bool,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as in the language")]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

impl AggregateOp {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Sum, "sum"),
        (Self::Avg, "avg"),
        (Self::Count, "count"),
        (Self::Min, "min"),
        (Self::Max, "max"),
        (Self::Group, "group"),
        (Self::Stddev, "stddev"),
        (Self::Stdvar, "stdvar"),
        (Self::Topk, "topk"),
        (Self::Bottomk, "bottomk"),
        (Self::CountValues, "count_values"),
        (Self::Quantile, "quantile"),
        (Self::Limitk, "limitk"),
        (Self::LimitRatio, "limit_ratio"),
    ];

    /// By its name in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(op, _)| *op)
    }

    /// As written.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(op, _)| *op == self).map_or("", |(_, name)| name)
    }

    /// Whether it takes a parameter.
    pub fn has_param(self) -> bool {
        matches!(
            self,
            Self::Topk
                | Self::Bottomk
                | Self::CountValues
                | Self::Quantile
                | Self::Limitk
                | Self::LimitRatio
        )
    }
}

/// An instant vector selector with its modifiers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    /// The metric name as written before the braces.
    pub name: Option<String>,
    /// All matchers, the one for the name included.
    pub matchers: Vec<Matcher>,
    /// Shift into the past.
    pub offset: Option<Length>,
    /// Fixed evaluation time.
    pub at: Option<At>,
    /// `anchored` or `smoothed`.
    pub extension: Option<Extension>,
}

/// How samples around a range take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// The last sample before the range counts as its first.
    Anchored,
    /// Values at the bounds are interpolated.
    Smoothed,
}

impl Extension {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anchored => "anchored",
            Self::Smoothed => "smoothed",
        }
    }
}

/// The `@` modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A time in milliseconds.
    Time(i64),
    /// `@ start()`.
    Start,
    /// `@ end()`.
    End,
}

/// A subquery.
#[derive(Clone, Debug, PartialEq)]
pub struct Subquery {
    /// What is evaluated.
    pub expr: Expr,
    /// How far back.
    pub range: Length,
    /// The step, the default interval if absent.
    pub step: Option<Length>,
    /// Shift into the past.
    pub offset: Option<Length>,
    /// Fixed evaluation time.
    pub at: Option<At>,
}

/// A length of time, fixed or computed from the query's step and range.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// Milliseconds.
    Fixed(i64),
    /// An expression over durations.
    Computed(Box<LengthExpr>),
}

/// An expression over durations; values are seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum LengthExpr {
    /// A number or duration.
    Seconds {
        /// The value.
        value: f64,
        /// Whether it was written as a duration.
        is_duration: bool,
    },
    /// `step()`
    Step,
    /// `range()`
    Range,
    /// `-x`, `+x`
    Sign {
        /// Whether it negates.
        negate: bool,
        /// The operand.
        of: Box<LengthExpr>,
    },
    /// `x op y`
    Op {
        /// The operator.
        op: BinaryOp,
        /// Left operand.
        lhs: Box<LengthExpr>,
        /// Right operand.
        rhs: Box<LengthExpr>,
    },
    /// `min_of(x, y)`, `max_of(x, y)`
    Pick {
        /// Whether the larger one is picked.
        max: bool,
        /// One.
        lhs: Box<LengthExpr>,
        /// The other.
        rhs: Box<LengthExpr>,
    },
    /// `(x)`
    Paren(Box<LengthExpr>),
}

impl Expr {
    pub(crate) fn new(span: Span, kind: ExprKind) -> Self {
        let height = kind.children().map(|child| child.height).max().unwrap_or_default() + 1;
        Self { span, kind, height }
    }

    /// The type of its value.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number { .. } => ValueType::Scalar,
            ExprKind::Text(_) => ValueType::String,
            ExprKind::Paren(expr) | ExprKind::Unary { expr, .. } => expr.value_type(),
            ExprKind::Binary(binary) => {
                let scalar = |e: &Expr| e.value_type() == ValueType::Scalar;
                if scalar(&binary.lhs) && scalar(&binary.rhs) {
                    ValueType::Scalar
                } else {
                    ValueType::Vector
                }
            }
            ExprKind::Aggregate(_) | ExprKind::Selector(_) => ValueType::Vector,
            ExprKind::Call { function, .. } => function.returns,
            ExprKind::Range { .. } | ExprKind::Subquery(_) => ValueType::Matrix,
        }
    }

    /// The expression inside any number of parentheses.
    pub fn unwrapped(&self) -> &Expr {
        let mut at = self;
        while let ExprKind::Paren(inner) = &at.kind {
            at = inner;
        }
        at
    }

    /// Calls `visit` for this node and all below, parents first.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Expr)) {
        visit(self);
        for child in self.kind.children() {
            child.walk(visit);
        }
    }

    /// The matchers of all selectors below.
    pub fn selectors(&self) -> Vec<&Selector> {
        let mut all = Vec::new();
        self.walk(&mut |expr| match &expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
                all.push(&**selector);
            }
            _ => {}
        });
        all
    }
}

impl ExprKind {
    /// Direct children in the order of the text.
    pub fn children(&self) -> impl Iterator<Item = &Expr> {
        let (one, two, many): (Option<&Expr>, Option<&Expr>, &[Expr]) = match self {
            Self::Number { .. } | Self::Text(_) | Self::Selector(_) | Self::Range { .. } => {
                (None, None, &[])
            }
            Self::Paren(expr) | Self::Unary { expr, .. } => (Some(expr), None, &[]),
            Self::Binary(binary) => (Some(&binary.lhs), Some(&binary.rhs), &[]),
            Self::Aggregate(agg) => (agg.param.as_ref(), Some(&agg.expr), &[]),
            Self::Call { args, .. } => (None, None, args),
            Self::Subquery(subquery) => (Some(&subquery.expr), None, &[]),
        };
        one.into_iter().chain(two).chain(many)
    }
}
