//! Operators, calls, aggregations.

use super::{HEIGHT_MAX, ParseError, Parser, Token};
use crate::ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Cardinality, Expr, ExprKind, Matching, Span,
    ValueType,
};
use crate::functions::Function;

/// Binding strength of a unary sign's operand: tighter than `*`, looser than `^`.
const UNARY_OPERAND: u8 = 6;

impl Parser<'_> {
    /// Reads operators that bind at least as tightly as `min`.
    pub(super) fn expression(&mut self, min: u8) -> Result<Expr, ParseError> {
        self.nested(|p| {
            let mut lhs = p.unary()?;
            while let Some((op, tokens)) = p.binary_op() {
                if op.precedence() < min {
                    break;
                }
                for _ in 0..tokens {
                    p.advance();
                }
                lhs = p.binary(op, lhs)?;
            }
            Ok(lhs)
        })
    }

    fn node(&self, start: usize, kind: ExprKind) -> Result<Expr, ParseError> {
        let span = Span { start, end: self.last_end() };
        let expr = Expr::new(span, kind);
        if expr.height > HEIGHT_MAX {
            return Err(self.error(span, "the query is nested too deeply"));
        }
        Ok(expr)
    }

    fn binary_op(&self) -> Option<(BinaryOp, usize)> {
        let op = match self.peek() {
            Token::Sign(sign) => match *sign {
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Sub,
                "*" => BinaryOp::Mul,
                "/" => BinaryOp::Div,
                "%" => BinaryOp::Mod,
                "^" => BinaryOp::Pow,
                "==" => BinaryOp::Equal,
                "!=" => BinaryOp::NotEqual,
                ">" => BinaryOp::Greater,
                "<" => BinaryOp::Less,
                ">=" => BinaryOp::GreaterEqual,
                "<=" => BinaryOp::LessEqual,
                "</" => BinaryOp::TrimUpper,
                ">/" => BinaryOp::TrimLower,
                _ => return None,
            },
            Token::Word(_) => match self.keyword(0)?.as_str() {
                "and" => BinaryOp::And,
                "or" => BinaryOp::Or,
                "unless" => BinaryOp::Unless,
                "atan2" => BinaryOp::Atan2,
                _ => return None,
            },
            _ => return None,
        };
        Some((op, 1))
    }

    fn binary(&mut self, op: BinaryOp, lhs: Expr) -> Result<Expr, ParseError> {
        let is_bool = self.accept_keyword("bool");
        let start = lhs.span.start;
        let modifiers = self.span();
        let matching = self.matching(op)?;
        // `^` associates to the right, everything else to the left.
        let right = if op == BinaryOp::Pow { op.precedence() } else { op.precedence() + 1 };
        let rhs = self.expression(right)?;
        let span = Span { start, end: rhs.span.end };
        if is_bool && !op.is_comparison() {
            let reason = "bool modifier can only be used on comparison operators";
            return Err(self.error(span, reason));
        }
        let vectors = [&lhs, &rhs].iter().all(|e| e.value_type() == ValueType::Vector);
        if !vectors && matching.is_some() {
            let reason = "vector matching only allowed between instant vectors";
            return Err(self.error(modifiers, reason));
        }
        let mut matching = if vectors { Some(matching.unwrap_or_default()) } else { None };
        if op.is_set()
            && let Some(m) = &mut matching
        {
            m.cardinality = Cardinality::ManyToMany;
        }
        self.node(start, ExprKind::Binary(Box::new(Binary { op, lhs, rhs, is_bool, matching })))
    }

    /// `on(...)`, `ignoring(...)`, `group_left(...)`, `fill(...)`.
    fn matching(&mut self, op: BinaryOp) -> Result<Option<Matching>, ParseError> {
        let start = self.span();
        let mut matching = Matching::default();
        let mut any = false;
        for (keyword, on) in [("on", true), ("ignoring", false)] {
            if self.keyword(0).as_deref() == Some(keyword) {
                self.advance();
                matching.on = on;
                matching.labels = self.label_names()?;
                any = true;
            }
        }
        let groups =
            [("group_left", Cardinality::ManyToOne), ("group_right", Cardinality::OneToMany)];
        for (keyword, cardinality) in groups {
            if any && self.accept_keyword(keyword) {
                if op.is_set() {
                    let reason = format!("no grouping allowed for {:?} operation", op.as_str());
                    return Err(self.error(start, reason));
                }
                matching.cardinality = cardinality;
                if self.is_sign("(") {
                    matching.include = self.label_names()?;
                }
            }
        }
        if matching.on
            && let Some(both) = matching.include.iter().find(|l| matching.labels.contains(l))
        {
            let reason = format!("label {both:?} must not occur in ON and GROUP clause at once");
            return Err(self.error(start, reason));
        }
        any |= self.fill(op, &mut matching)?;
        Ok(any.then_some(matching))
    }

    fn fill(&mut self, op: BinaryOp, matching: &mut Matching) -> Result<bool, ParseError> {
        let mut any = false;
        loop {
            let Some(keyword) = self.keyword(0) else { return Ok(any) };
            let (left, right) = match keyword.as_str() {
                "fill" => (true, true),
                "fill_left" => (true, false),
                "fill_right" => (false, true),
                _ => return Ok(any),
            };
            // A metric may bear this name: only `fill(<number>)` is the modifier.
            if !self.fill_follows() {
                return Ok(any);
            }
            let span = self.advance().span;
            self.advance();
            let value = self.signed_number("fill modifier")?;
            self.expect(")", "fill modifier")?;
            if op.is_set() {
                let reason = format!(
                    "filling in missing series not allowed for set operators ({})",
                    op.as_str()
                );
                return Err(self.error(span, reason));
            }
            if left {
                matching.fill_left = Some(value);
            }
            if right {
                matching.fill_right = Some(value);
            }
            any = true;
        }
    }

    fn fill_follows(&self) -> bool {
        let sign = |ahead: usize, sign: &str| matches!(self.lexeme(ahead).token, Token::Sign(s) if s == sign);
        if !sign(1, "(") {
            return false;
        }
        let at = if sign(2, "-") || sign(2, "+") { 3 } else { 2 };
        match &self.lexeme(at).token {
            Token::Number(_) => true,
            Token::Word(_) => self.keyword(at).is_some_and(|w| w == "inf" || w == "nan"),
            _ => false,
        }
    }

    pub(super) fn signed_number(&mut self, context: &str) -> Result<f64, ParseError> {
        let negative = self.accept("-");
        if !negative {
            self.accept("+");
        }
        let value = match self.peek() {
            Token::Number(value) => *value,
            Token::Duration(ms) => *ms as f64 / 1000.0,
            Token::Word(_) => match self.keyword(0).as_deref() {
                Some("inf") => f64::INFINITY,
                Some("nan") => f64::NAN,
                _ => return Err(self.unexpected(context, "number")),
            },
            _ => return Err(self.unexpected(context, "number")),
        };
        self.advance();
        Ok(if negative { -value } else { value })
    }

    /// `(a, b, "c.d",)`
    pub(super) fn label_names(&mut self) -> Result<Vec<String>, ParseError> {
        self.expect("(", "grouping opts")?;
        let mut names = Vec::new();
        while !self.accept(")") {
            match self.peek().clone() {
                Token::Word(name) if !name.contains(':') => names.push(name),
                Token::Text(name) if crate::labels::is_valid_label_name(&name) => names.push(name),
                Token::Text(name) => {
                    let reason = format!("invalid label name for grouping: {name:?}");
                    return Err(self.error(self.span(), reason));
                }
                _ => return Err(self.unexpected("grouping opts", "label")),
            }
            self.advance();
            if !self.accept(",") && !self.is_sign(")") {
                return Err(self.unexpected("grouping opts", "\",\" or \")\""));
            }
        }
        Ok(names)
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let start = self.span().start;
        let negate = self.is_sign("-");
        if !negate && !self.is_sign("+") {
            let primary = self.primary()?;
            return self.postfix(primary);
        }
        self.advance();
        let inner = self.expression(UNARY_OPERAND)?;
        if let ExprKind::Number { value, is_duration } = inner.kind {
            let value = if negate { -value } else { value };
            return self.node(start, ExprKind::Number { value, is_duration });
        }
        self.node(start, ExprKind::Unary { negate, expr: Box::new(inner) })
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let start = self.span().start;
        match self.peek().clone() {
            Token::Number(value) => {
                self.advance();
                self.node(start, ExprKind::Number { value, is_duration: false })
            }
            Token::Duration(ms) => {
                self.advance();
                let value = ms as f64 / 1000.0;
                self.node(start, ExprKind::Number { value, is_duration: true })
            }
            Token::Text(text) => {
                self.advance();
                self.node(start, ExprKind::Text(text))
            }
            Token::Sign("(") => {
                self.advance();
                let inner = self.expression(0)?;
                self.expect(")", "paren expression")?;
                self.node(start, ExprKind::Paren(Box::new(inner)))
            }
            Token::Sign("{") => self.selector_expr(None),
            Token::Word(word) => self.word(&word),
            _ => Err(self.unexpected("", "")),
        }
    }

    fn word(&mut self, word: &str) -> Result<Expr, ParseError> {
        let start = self.span().start;
        let lower = word.to_ascii_lowercase();
        if lower == "inf" || lower == "nan" {
            self.advance();
            let value = if lower == "inf" { f64::INFINITY } else { f64::NAN };
            return self.node(start, ExprKind::Number { value, is_duration: false });
        }
        let paren_next = matches!(self.lexeme(1).token, Token::Sign("("));
        if let Some(op) = AggregateOp::by_name(word) {
            let modifier = self.keyword(1).is_some_and(|k| k == "by" || k == "without");
            if paren_next || modifier {
                return self.aggregate(op);
            }
        }
        if paren_next {
            return self.call(word);
        }
        if matches!(lower.as_str(), "bool" | "on" | "ignoring" | "group_left" | "group_right") {
            return Err(self.unexpected("", ""));
        }
        self.selector_expr(Some(word.to_owned()))
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseError> {
        let start = self.span();
        let function = Function::by_name(name)
            .or_else(|| Function::by_name(&name.to_ascii_lowercase()).filter(|f| f.args.is_empty()))
            .ok_or_else(|| self.error(start, format!("unknown function with name {name:?}")))?;
        self.advance();
        let args = self.call_args()?;
        self.node(start.start, ExprKind::Call { function, args })
    }

    fn call_args(&mut self) -> Result<Vec<Expr>, ParseError> {
        self.expect("(", "function call")?;
        let mut args = Vec::new();
        while !self.accept(")") {
            args.push(self.expression(0)?);
            if self.is_sign(",") {
                let comma = self.advance().span;
                if self.is_sign(")") {
                    let reason = "trailing commas not allowed in function call args";
                    return Err(self.error(comma, reason));
                }
            } else if !self.is_sign(")") {
                return Err(self.unexpected("", ""));
            }
        }
        Ok(args)
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Expr, ParseError> {
        let start = self.span().start;
        self.advance();
        let mut grouping = self.grouping()?;
        let mut args = self.call_args()?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let (without, grouping) = grouping.unwrap_or_default();
        let span = Span { start, end: self.last_end() };
        if args.is_empty() {
            return Err(self.error(span, "no arguments for aggregate expression provided"));
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        if args.len() != wanted {
            let reason = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                args.len()
            );
            return Err(self.error(span, reason));
        }
        let Some(expr) = args.pop() else {
            return Err(self.error(span, "no arguments for aggregate expression provided"));
        };
        let param = args.pop();
        let aggregate = Aggregate { op, expr, param, grouping, without };
        self.node(start, ExprKind::Aggregate(Box::new(aggregate)))
    }

    fn grouping(&mut self) -> Result<Option<(bool, Vec<String>)>, ParseError> {
        for (keyword, without) in [("by", false), ("without", true)] {
            if self.accept_keyword(keyword) {
                return Ok(Some((without, self.label_names()?)));
            }
        }
        Ok(None)
    }
}
