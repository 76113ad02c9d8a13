//! Errors of this node as refusals to another.

use watershed_migration::messages::{Refused, RefusedKind};
use watershed_wal::LogError;

use super::peer::CallError;
use crate::Error;

/// Says an error to the node that asked.
pub(super) fn refused(error: Error) -> Refused {
    let kind = match &error {
        Error::Log(LogError::Gap { .. }) => RefusedKind::Gap,
        Error::Log(LogError::HoldOverBudget { .. } | LogError::Full { .. }) => RefusedKind::NoRoom,
        Error::Log(LogError::Conflict { .. } | LogError::StaleTerm { .. }) => RefusedKind::Conflict,
        Error::Log(LogError::Damaged(_)) => RefusedKind::Damaged,
        Error::Log(LogError::Busy { .. }) => RefusedKind::Busy,
        Error::Store(store) if store.is_no_room() => RefusedKind::NoRoom,
        Error::Store(store) if store.is_damage() => RefusedKind::Damaged,
        Error::Closed | Error::NoInstance { .. } => RefusedKind::NotReady,
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            RefusedKind::NoRoom
        }
        Error::Moved { owner, epoch, .. } => {
            let owner = Some((owner.clone(), *epoch));
            return Refused {
                kind: RefusedKind::NotOwner,
                message: error.to_string(),
                owner,
            };
        }
        _ => RefusedKind::Failed,
    };
    Refused::new(kind, error.to_string())
}

/// Says that another node could not be asked.
pub(super) fn refused_by(error: &CallError) -> Refused {
    Refused::new(RefusedKind::Failed, error.to_string())
}
