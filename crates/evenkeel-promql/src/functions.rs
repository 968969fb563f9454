//! Names and signatures of all functions.

use crate::ast::ValueType;
use ValueType::{Matrix as M, Scalar as S, String as T, Vector as V};

/// How many arguments a function takes beyond its fixed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly the listed ones.
    Exact,
    /// The last of the listed ones, this many, may be left out.
    Optional(usize),
    /// The last listed one may repeat any number of times, also none.
    Repeats,
}

/// A function's name and signature.
#[derive(Debug)]
pub struct Function {
    /// The name.
    pub name: &'static str,
    /// Types of the arguments.
    pub args: &'static [ValueType],
    /// Which of them may be missing or repeat.
    pub arity: Arity,
    /// Type of the result.
    pub returns: ValueType,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Function {
    /// By name (names are lower case).
    pub fn by_name(name: &str) -> Option<&'static Self> {
        FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().map(|at| &FUNCTIONS[at])
    }

    /// Fewest and most arguments (`None` = any number).
    pub fn arg_counts(&self) -> (usize, Option<usize>) {
        match self.arity {
            Arity::Exact => (self.args.len(), Some(self.args.len())),
            Arity::Optional(n) => (self.args.len() - n, Some(self.args.len())),
            Arity::Repeats => (self.args.len() - 1, None),
        }
    }

    /// Type of the argument at an index.
    pub fn arg_type(&self, index: usize) -> ValueType {
        self.args.get(index).or(self.args.last()).copied().unwrap_or(ValueType::Scalar)
    }
}

const fn f(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, arity: Arity::Exact, returns }
}

const fn opt(
    name: &'static str,
    args: &'static [ValueType],
    optional: usize,
    returns: ValueType,
) -> Function {
    Function { name, args, arity: Arity::Optional(optional), returns }
}

const fn rep(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, arity: Arity::Repeats, returns }
}

/// Sorted by name.
static FUNCTIONS: &[Function] = &[
    f("abs", &[V], V),
    f("absent", &[V], V),
    f("absent_over_time", &[M], V),
    f("acos", &[V], V),
    f("acosh", &[V], V),
    f("asin", &[V], V),
    f("asinh", &[V], V),
    f("atan", &[V], V),
    f("atanh", &[V], V),
    f("avg_over_time", &[M], V),
    f("ceil", &[V], V),
    f("changes", &[M], V),
    f("clamp", &[V, S, S], V),
    f("clamp_max", &[V, S], V),
    f("clamp_min", &[V, S], V),
    f("cos", &[V], V),
    f("cosh", &[V], V),
    f("count_over_time", &[M], V),
    opt("day_of_month", &[V], 1, V),
    opt("day_of_week", &[V], 1, V),
    opt("day_of_year", &[V], 1, V),
    opt("days_in_month", &[V], 1, V),
    f("deg", &[V], V),
    f("delta", &[M], V),
    f("deriv", &[M], V),
    f("double_exponential_smoothing", &[M, S, S], V),
    f("end", &[], S),
    f("exp", &[V], V),
    f("first_over_time", &[M], V),
    f("floor", &[V], V),
    f("histogram_avg", &[V], V),
    f("histogram_count", &[V], V),
    f("histogram_fraction", &[S, S, V], V),
    f("histogram_quantile", &[S, V], V),
    rep("histogram_quantiles", &[V, T, S, S], V),
    f("histogram_stddev", &[V], V),
    f("histogram_stdvar", &[V], V),
    f("histogram_sum", &[V], V),
    opt("hour", &[V], 1, V),
    f("idelta", &[M], V),
    f("increase", &[M], V),
    opt("info", &[V, V], 1, V),
    f("irate", &[M], V),
    rep("label_join", &[V, T, T, T], V),
    f("label_replace", &[V, T, T, T, T], V),
    f("last_over_time", &[M], V),
    f("ln", &[V], V),
    f("log10", &[V], V),
    f("log2", &[V], V),
    f("mad_over_time", &[M], V),
    f("max_of", &[S, S], S),
    f("max_over_time", &[M], V),
    f("min_of", &[S, S], S),
    f("min_over_time", &[M], V),
    opt("minute", &[V], 1, V),
    opt("month", &[V], 1, V),
    f("pi", &[], S),
    f("predict_linear", &[M, S], V),
    f("present_over_time", &[M], V),
    f("quantile_over_time", &[S, M], V),
    f("rad", &[V], V),
    f("range", &[], S),
    f("rate", &[M], V),
    f("resets", &[M], V),
    opt("round", &[V, S], 1, V),
    f("scalar", &[V], S),
    f("sgn", &[V], V),
    f("sin", &[V], V),
    f("sinh", &[V], V),
    f("sort", &[V], V),
    rep("sort_by_label", &[V, T], V),
    rep("sort_by_label_desc", &[V, T], V),
    f("sort_desc", &[V], V),
    f("sqrt", &[V], V),
    f("start", &[], S),
    f("start_timestamp", &[V], V),
    f("stddev_over_time", &[M], V),
    f("stdvar_over_time", &[M], V),
    f("step", &[], S),
    f("sum_over_time", &[M], V),
    f("tan", &[V], V),
    f("tanh", &[V], V),
    f("time", &[], S),
    f("timestamp", &[V], V),
    f("ts_of_first_over_time", &[M], V),
    f("ts_of_last_over_time", &[M], V),
    f("ts_of_max_over_time", &[M], V),
    f("ts_of_min_over_time", &[M], V),
    f("vector", &[S], V),
    opt("year", &[V], 1, V),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(FUNCTIONS.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert_eq!(Function::by_name("rate").map(|f| f.args), Some(&[M][..]));
    }
}
