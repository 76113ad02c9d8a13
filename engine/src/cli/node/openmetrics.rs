//! Families of numbers, written as OpenMetrics.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::Times;

/// What the format's whole numbers hold: the encoder fails beyond it.
fn shown(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Names and values of a number's labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// No labels.
pub(super) const NONE: Labels = Vec::new();

/// Writes families of numbers, each with what it is. One that has no numbers is left out.
pub(super) struct Page<'e>(DescriptorEncoder<'e>);

impl<'e> Page<'e> {
    pub(super) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Self(encoder)
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Gauge,
            values,
            |encoder, value| encoder.encode_gauge(&shown(value)),
        )
    }

    pub(super) fn bytes(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let unit = Some(Unit::Bytes);
        self.family(
            name,
            help,
            unit,
            MetricType::Gauge,
            values,
            |encoder, value| encoder.encode_gauge(&shown(value)),
        )
    }

    pub(super) fn seconds(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let unit = Some(Unit::Seconds);
        self.family(
            name,
            help,
            unit,
            MetricType::Gauge,
            values,
            |encoder, value| encoder.encode_gauge(&value),
        )
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.family(
            name,
            help,
            None,
            MetricType::Counter,
            values,
            |encoder, value| encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        )
    }

    pub(super) fn times(&mut self, name: &str, help: &str, times: &Times) -> fmt::Result {
        let buckets = times.buckets.iter();
        let mut buckets: Vec<(f64, u64)> = buckets
            .map(|bucket| (bucket.up_to_us as f64 / 1e6, bucket.count))
            .collect();
        // The encoder's name of the last bucket.
        buckets.push((f64::MAX, times.longer));
        let unit = Unit::Seconds;
        let mut encoder =
            self.0
                .encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(
            times.sum_us as f64 / 1e6,
            times.count(),
            &buckets,
            None,
        )
    }

    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [(&'static str, String); N],
    ) -> fmt::Result {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        encoder.encode_info(&labels.to_vec())
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        metric_type: MetricType,
        values: impl IntoIterator<Item = (Labels, V)>,
        mut write: impl FnMut(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), metric_type)?;
        for (labels, value) in values {
            if labels.is_empty() {
                write(&mut family, value)?;
            } else {
                write(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}
