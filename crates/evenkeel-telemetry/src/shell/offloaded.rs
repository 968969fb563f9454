use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Series, Span};
use jiff::Timestamp;

use crate::Telemetry;

/// Queries on threads of their own: a heavy one, or one that waits for a writer, does not delay the
/// executor that asks. Needs a tokio runtime.
#[derive(Clone)]
pub struct Offloaded(Telemetry);

impl Offloaded {
    /// Queries over this telemetry.
    pub fn new(telemetry: Telemetry) -> Self {
        Self(telemetry)
    }

    async fn ask<T: Send + 'static>(
        &self,
        expr: &str,
        query: impl Future<Output = Result<T, MetricsError>> + Send + 'static,
    ) -> Result<T, MetricsError> {
        // The query is ready at its first poll; it only takes long until then.
        let asked = tokio::task::spawn_blocking(move || futures::executor::block_on(query));
        asked.await.unwrap_or_else(|_| {
            let problem = "internal error while evaluating the query".to_owned();
            Err(MetricsError::Invalid { expr: expr.to_owned(), problem })
        })
    }
}

impl Metrics for Offloaded {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let (telemetry, text) = (self.0.clone(), expr.to_owned());
        Box::pin(self.ask(expr, async move { telemetry.query(&text, at).await }))
    }

    fn query_range<'a>(
        &'a self,
        expr: &'a str,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        let (telemetry, text) = (self.0.clone(), expr.to_owned());
        Box::pin(self.ask(expr, async move { telemetry.query_range(&text, span).await }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Limits;

    #[test]
    fn a_query_that_waits_for_the_series_does_not_delay_others() {
        let telemetry = Telemetry::new(Limits::default());
        let metrics = Offloaded::new(telemetry.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let writing = telemetry.write();
            let second = Timestamp::from_second(1).unwrap();
            let span = Span { first: second, last: second, step: Duration::from_secs(1) };
            let asking = async {
                let both = (metrics.query("1", second), metrics.query_range("vector(1)", span));
                futures::join!(both.0, both.1)
            };
            // On this one thread the writer could never end, if the queries waited on it.
            let others = async {
                tokio::task::yield_now().await;
                drop(writing);
            };
            let (answers, ()) = futures::join!(asking, others);
            assert_eq!(answers.0.unwrap().len(), 1);
            assert_eq!(answers.1.unwrap().len(), 1);
        });
    }
}
