//! Selectors and what may follow an expression: `[range]`, `[range:step]`, `offset`, `@`,
//! `anchored`, `smoothed`.

use super::{ParseError, Parser, Token};
use crate::ast::{At, Expr, ExprKind, Extension, Length, Selector, Span, Subquery};
use crate::engine::TIME_MS_MAX;
use crate::labels::METRIC_NAME;
use crate::matcher::{MatchOp, Matcher};

impl Parser<'_> {
    pub(super) fn selector_expr(&mut self, name: Option<String>) -> Result<Expr, ParseError> {
        let start = self.span().start;
        let selector = self.selector(name)?;
        let span = Span { start, end: self.last_end() };
        Ok(Expr::new(span, ExprKind::Selector(Box::new(selector))))
    }

    /// A selector alone; used for `match[]`.
    pub(super) fn bare_selector(&mut self) -> Result<Selector, ParseError> {
        let start = self.span();
        let name = match self.peek().clone() {
            Token::Word(word) => Some(word),
            _ => None,
        };
        let selector = self.selector(name)?;
        if selector.matchers.iter().all(|m| m.matches("")) {
            let reason = "match[] must contain at least one non-empty matcher";
            return Err(self.error(start, reason));
        }
        Ok(selector)
    }

    fn selector(&mut self, name: Option<String>) -> Result<Selector, ParseError> {
        let start = self.span();
        let mut selector = Selector { name, ..Selector::default() };
        if selector.name.is_some() {
            self.advance();
        }
        if self.is_sign("{") {
            self.matchers(&mut selector)?;
        } else if selector.name.is_none() {
            return Err(self.unexpected("", "selector"));
        }
        if let Some(name) = &selector.name {
            let double = selector
                .matchers
                .iter()
                .find(|m| &*m.name == METRIC_NAME && m.op == MatchOp::Equal);
            if let Some(double) = double {
                let reason =
                    format!("metric name must not be set twice: {name:?} or {:?}", &*double.value);
                return Err(self.error(start, reason));
            }
            selector.matchers.push(Matcher::equal(METRIC_NAME, name));
        }
        Ok(selector)
    }

    fn matchers(&mut self, selector: &mut Selector) -> Result<(), ParseError> {
        const CONTEXT: &str = "label matching";
        self.expect("{", CONTEXT)?;
        while !self.accept("}") {
            let at = self.span();
            let (name, quoted) = match self.advance().token {
                Token::Word(name) => (name, false),
                Token::Text(name) => (name, true),
                _ => {
                    self.at -= 1;
                    return Err(self.unexpected(CONTEXT, "identifier or \"}\""));
                }
            };
            if quoted && (self.is_sign(",") || self.is_sign("}")) {
                if let Some(first) = &selector.name {
                    let reason =
                        format!("metric name must not be set twice: {first:?} or {name:?}");
                    return Err(self.error(at, reason));
                }
                selector.name = Some(name);
            } else {
                let matcher = self.matcher(&name, at)?;
                selector.matchers.push(matcher);
            }
            if !self.accept(",") && !self.is_sign("}") {
                return Err(self.unexpected(CONTEXT, "\",\" or \"}\""));
            }
        }
        Ok(())
    }

    fn matcher(&mut self, name: &str, at: Span) -> Result<Matcher, ParseError> {
        let op = match self.peek() {
            Token::Sign("=") => MatchOp::Equal,
            Token::Sign("!=") => MatchOp::NotEqual,
            Token::Sign("=~") => MatchOp::Regex,
            Token::Sign("!~") => MatchOp::NotRegex,
            _ => return Err(self.unexpected("label matching", "label matching operator")),
        };
        self.advance();
        let Token::Text(value) = self.peek().clone() else {
            return Err(self.unexpected("label matching", "string"));
        };
        self.advance();
        Matcher::within(name, op, &value, &mut self.regex_bytes)
            .map_err(|e| self.error(Span { start: at.start, end: self.last_end() }, e.to_string()))
    }

    /// Everything that may stand behind an expression.
    pub(super) fn postfix(&mut self, expr: Expr) -> Result<Expr, ParseError> {
        let mut expr = expr;
        loop {
            expr = match self.peek() {
                Token::Sign("[") => self.bracket(expr)?,
                Token::Sign("@") => {
                    self.advance();
                    let at = self.at_time()?;
                    self.set_at(expr, at)?
                }
                Token::Word(_) => match self.keyword(0).as_deref() {
                    Some("offset") => {
                        self.advance();
                        let offset = self.offset_length()?;
                        self.set_offset(expr, offset)?
                    }
                    Some("anchored") => self.set_extension(expr, Extension::Anchored)?,
                    Some("smoothed") => self.set_extension(expr, Extension::Smoothed)?,
                    _ => return Ok(expr),
                },
                _ => return Ok(expr),
            };
        }
    }

    fn bracket(&mut self, expr: Expr) -> Result<Expr, ParseError> {
        let start = expr.span.start;
        self.advance();
        let range_span = self.span();
        let range = self.bracket_length()?;
        if let Length::Fixed(ms) = range
            && ms <= 0
        {
            return Err(self.error(range_span, "duration must be greater than 0"));
        }
        if self.accept(":") {
            let step = if self.is_sign("]") { None } else { Some(self.bracket_length()?) };
            self.expect("]", "subquery selector")?;
            let subquery = Subquery { expr, range, step, offset: None, at: None };
            let span = Span { start, end: self.last_end() };
            return Ok(Expr::new(span, ExprKind::Subquery(Box::new(subquery))));
        }
        self.expect("]", "subquery or range selector")?;
        let span = Span { start, end: self.last_end() };
        let ExprKind::Selector(selector) = expr.kind else {
            let reason = "ranges only allowed for vector selectors";
            return Err(self.error(expr.span, reason));
        };
        if selector.offset.is_some() {
            return Err(self.error(span, "no offset modifiers allowed before range"));
        }
        if selector.at.is_some() {
            return Err(self.error(span, "no @ modifiers allowed before range"));
        }
        if selector.extension.is_some() {
            return Err(self.error(span, "no anchored or smoothed modifiers allowed before range"));
        }
        Ok(Expr::new(span, ExprKind::Range { selector, range }))
    }

    fn at_time(&mut self) -> Result<At, ParseError> {
        let span = self.span();
        for (keyword, at) in [("start", At::Start), ("end", At::End)] {
            if self.keyword(0).as_deref() == Some(keyword) {
                self.advance();
                self.expect("(", "@")?;
                self.expect(")", "@")?;
                return Ok(at);
            }
        }
        let seconds = self.signed_number("@")?;
        let ms = (seconds * 1000.0).round();
        if !ms.is_finite() || ms.abs() > TIME_MS_MAX as f64 {
            let reason = format!("timestamp out of bounds for @ modifier: {seconds}");
            return Err(self.error(span, reason));
        }
        Ok(At::Time(ms as i64))
    }

    fn set_at(&self, mut expr: Expr, at: At) -> Result<Expr, ParseError> {
        let slot = match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => &mut selector.at,
            ExprKind::Subquery(subquery) => &mut subquery.at,
            _ => {
                let reason = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(self.error(expr.span, reason));
            }
        };
        if slot.is_some() {
            return Err(self.error(expr.span, "@ <timestamp> may not be set multiple times"));
        }
        *slot = Some(at);
        expr.span.end = self.last_end();
        Ok(expr)
    }

    fn set_offset(&self, mut expr: Expr, offset: Length) -> Result<Expr, ParseError> {
        let slot = match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => &mut selector.offset,
            ExprKind::Subquery(subquery) => &mut subquery.offset,
            _ => {
                let reason = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
                return Err(self.error(expr.span, reason));
            }
        };
        if slot.is_some() {
            return Err(self.error(expr.span, "offset may not be set multiple times"));
        }
        *slot = Some(offset);
        expr.span.end = self.last_end();
        Ok(expr)
    }

    fn set_extension(&mut self, mut expr: Expr, extension: Extension) -> Result<Expr, ParseError> {
        self.advance();
        let name = extension.as_str();
        let slot = match &mut expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
                &mut selector.extension
            }
            ExprKind::Subquery(_) => {
                let reason = format!("{name} modifier is not supported for subqueries");
                return Err(self.error(expr.span, reason));
            }
            _ => {
                let reason = format!(
                    "{name} modifier must be preceded by an instant vector selector or range vector selector"
                );
                return Err(self.error(expr.span, reason));
            }
        };
        if slot.is_some() {
            let reason = "anchored and smoothed modifiers cannot be combined or repeated";
            return Err(self.error(expr.span, reason));
        }
        *slot = Some(extension);
        expr.span.end = self.last_end();
        Ok(expr)
    }
}
