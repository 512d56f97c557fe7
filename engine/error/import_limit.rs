//! The numbers of an import beyond what a device may import.

use std::fmt;

/// An import that a device may not make: [`crate::Error::ImportLimit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportLimit {
    /// The device's name.
    pub device: String,
    /// Bytes of the import: those of a whole slab.
    pub requested: u64,
    /// Bytes of its imports.
    pub imported: u64,
    /// Bytes that it may import ([`crate::ImportUsage::limit`]).
    pub limit: u64,
}

impl fmt::Display for ImportLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, requested, imported, limit } = self;
        write!(f, "{device} may import {limit} bytes of system memory: ")?;
        write!(f, "{imported} imported, {requested} more requested")
    }
}
