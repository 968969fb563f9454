//! Durations and expressions over them.

use super::{ParseError, Parser, Token};
use crate::ast::{BinaryOp, Length, LengthExpr};

impl Parser<'_> {
    /// A duration inside brackets: a whole expression.
    pub(super) fn bracket_length(&mut self) -> Result<Length, ParseError> {
        let expr = self.length_expr(0)?;
        self.fixed(expr)
    }

    /// The duration behind `offset`: a term; operators behind it belong to the query.
    pub(super) fn offset_length(&mut self) -> Result<Length, ParseError> {
        let expr = self.length_unary(false)?;
        self.fixed(expr)
    }

    /// Plain durations are fixed at once.
    fn fixed(&self, expr: LengthExpr) -> Result<Length, ParseError> {
        if let Some(seconds) = constant(&expr) {
            return match seconds_to_ms(seconds) {
                Some(ms) => Ok(Length::Fixed(ms)),
                None => Err(self.error(self.span(), "duration out of range")),
            };
        }
        Ok(Length::Computed(Box::new(expr)))
    }

    fn length_expr(&mut self, min: u8) -> Result<LengthExpr, ParseError> {
        self.nested(|p| {
            let mut lhs = p.length_unary(true)?;
            loop {
                let op = match p.peek() {
                    Token::Sign("+") => BinaryOp::Add,
                    Token::Sign("-") => BinaryOp::Sub,
                    Token::Sign("*") => BinaryOp::Mul,
                    Token::Sign("/") => BinaryOp::Div,
                    Token::Sign("%") => BinaryOp::Mod,
                    Token::Sign("^") => BinaryOp::Pow,
                    _ => return Ok(lhs),
                };
                if op.precedence() < min {
                    return Ok(lhs);
                }
                p.advance();
                let right = if op == BinaryOp::Pow { op.precedence() } else { op.precedence() + 1 };
                let rhs = p.length_expr(right)?;
                lhs = LengthExpr::Op { op, lhs: Box::new(lhs), rhs: Box::new(rhs) };
            }
        })
    }

    /// A term; the operand of a sign may be a power where operators are allowed at all.
    fn length_unary(&mut self, operators: bool) -> Result<LengthExpr, ParseError> {
        const CONTEXT: &str = "duration";
        self.nested(|p| {
            for (sign, negate) in [("-", true), ("+", false)] {
                if p.accept(sign) {
                    let of = if operators { p.length_expr(6)? } else { p.length_unary(false)? };
                    let of = Box::new(of);
                    return Ok(LengthExpr::Sign { negate, of });
                }
            }
            match p.peek().clone() {
                Token::Number(value) => {
                    p.advance();
                    Ok(LengthExpr::Seconds { value, is_duration: false })
                }
                Token::Duration(ms) => {
                    p.advance();
                    Ok(LengthExpr::Seconds { value: ms as f64 / 1000.0, is_duration: true })
                }
                Token::Sign("(") => {
                    p.advance();
                    let inner = p.length_expr(0)?;
                    p.expect(")", CONTEXT)?;
                    Ok(LengthExpr::Paren(Box::new(inner)))
                }
                Token::Word(_) => p.length_call(),
                _ => Err(p.unexpected(CONTEXT, "number, duration, step(), or range()")),
            }
        })
    }

    fn length_call(&mut self) -> Result<LengthExpr, ParseError> {
        const CONTEXT: &str = "duration";
        let word = self.keyword(0).unwrap_or_default();
        match word.as_str() {
            "step" | "range" => {
                self.advance();
                self.expect("(", CONTEXT)?;
                self.expect(")", CONTEXT)?;
                Ok(if word == "step" { LengthExpr::Step } else { LengthExpr::Range })
            }
            // `min` and `max` are the names of older versions.
            "min_of" | "max_of" | "min" | "max" => {
                self.advance();
                self.expect("(", CONTEXT)?;
                let lhs = Box::new(self.length_expr(0)?);
                self.expect(",", CONTEXT)?;
                let rhs = Box::new(self.length_expr(0)?);
                self.expect(")", CONTEXT)?;
                Ok(LengthExpr::Pick { max: word.starts_with("max"), lhs, rhs })
            }
            _ => Err(self.unexpected(CONTEXT, "number, duration, step(), or range()")),
        }
    }
}

/// The value of a plain number or duration, with signs.
fn constant(expr: &LengthExpr) -> Option<f64> {
    match expr {
        LengthExpr::Seconds { value, .. } => Some(*value),
        LengthExpr::Sign { negate, of } => {
            constant(of).map(|value| if *negate { -value } else { value })
        }
        _ => None,
    }
}

/// Milliseconds of a length; `None` beyond what Go's durations hold.
pub(crate) fn seconds_to_ms(seconds: f64) -> Option<i64> {
    /// Less than 2^63 nanoseconds.
    const MAX_MS: f64 = 9_223_372_036_854.0;
    let ms = (seconds * 1000.0).round();
    (ms.abs() <= MAX_MS).then_some(ms as i64)
}
