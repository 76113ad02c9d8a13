//! The placement record, with the migration and the certificate that it may hold.

use super::field::{message, message_field, put, take};
use crate::certificate::{Certificate, Party};
use crate::placement::{Frozen, MigrationRecord, PlacementRecord, Proof};

message!(PlacementRecord {
    shard,
    epoch,
    owner,
    instance,
    followers,
    migration,
    frozen,
    revision,
});

message!(Frozen {
    node,
    instance,
    f,
    migration,
    retiring,
    grace_over_ms,
});

message!(MigrationRecord {
    id,
    attempt,
    driver,
    driver_term,
    phase,
    source,
    source_instance,
    target,
    target_instance,
    config,
    base,
    started_by,
    reason,
    proof,
    certificate,
    cutover_asked,
    cleanup_asked,
    paused,
});

message!(Proof { source, target });

message!(Certificate {
    version,
    shard,
    migration,
    source,
    target,
    base,
    f,
    digest_base,
    digest_source,
    digest_target,
    files,
    missing,
    holes_filled,
    delta_records,
    pause_us,
    attempts,
    phase_ms,
    safety,
    verdict,
});

message!(Party {
    node,
    instance,
    epoch,
    term,
});
