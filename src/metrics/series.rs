//! A metric with a set of label values that is known beforehand: every series is there from the first scrape, at 0, in
//! the order of the set. Counting never looks a series up: [`register`] hands out the counters themselves.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry};

/// The labels of one series: names and values.
pub(super) type Labels<const K: usize> = [(&'static str, Cow<'static, str>); K];

/// Registers a metric with these `labels` and returns what counts for each of them, in their order.
pub(super) fn register<M, const K: usize, const N: usize>(
    registry: &mut Registry,
    name: String,
    help: &str,
    labels: [Labels<K>; N],
) -> [M; N]
where
    M: Metric + TypedMetric + Clone + Default,
{
    let rows: [(Labels<K>, M); N] = labels.map(|labels| (labels, M::default()));
    let metrics = rows.each_ref().map(|(_, metric)| metric.clone());
    registry.register(name, help, Series { rows: Box::new(rows) });
    metrics
}

#[derive(Debug)]
struct Series<M, const K: usize> {
    rows: Box<[(Labels<K>, M)]>,
}

impl<M: EncodeMetric + TypedMetric, const K: usize> EncodeMetric for Series<M, K> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in &self.rows {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
