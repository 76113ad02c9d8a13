//! A certificate is consistent, and says what happened.

use super::Property;
use crate::world::{Bug, World};

pub(crate) const PROPERTY: Property = Property {
    name: "the certificate is true",
    check,
    planted: Bug::CertifiesLess,
};

fn check(world: &World) -> Result<(), String> {
    let Some(certificate) = &world.certified else {
        return Ok(());
    };
    let (base, f) = (certificate.base.0, certificate.f.0);
    if world.source.log.len() as u64 != f {
        return Err(format!(
            "F is {f}, the source ends at {}",
            world.source.log.len()
        ));
    }
    if !world.just_certified {
        return Ok(());
    }
    certificate.check().map_err(|error| error.to_string())?;
    let moved = world.source.log.iter().map(|record| record.seq().0);
    let count = moved.filter(|seq| *seq > base && *seq <= f).count() as u64;
    if certificate.digest_source.count != count {
        return Err(format!("{count} records in ({base}, {f}]"));
    }
    let json = serde_json::to_vec(&**certificate).unwrap();
    match watershed_migration::Certificate::from_json(&json) {
        Ok(read) if read == **certificate => Ok(()),
        other => Err(format!("read back as {other:?}")),
    }
}
