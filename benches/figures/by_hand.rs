//! Two devices that share memory by hand, and a check that they do.

use peerbuf::{Device, HandleType};

use crate::Outcome;
use crate::hand::{Block, Hand, Needs, Recorded};

/// An exporter and an importer, for buffers of one size.
pub(crate) struct ByHand<'a> {
    exporter: &'a Device,
    importer: &'a Device,
    exports: Hand<'a>,
    imports: Hand<'a>,
    needs: Needs,
    import_needs: Needs,
    size: u64,
}

impl<'a> ByHand<'a> {
    pub(crate) fn new(
        exporter: &'a Device,
        importer: &'a Device,
        handle: HandleType,
        size: u64,
    ) -> Outcome<Self> {
        let exports = Hand::new(exporter, handle);
        let imports = Hand::new(importer, handle);
        let needs = exports.needs(size)?;
        let fd = exports.export(&exports.allocate(needs)?)?;
        let import_needs = imports.import_needs(&fd, needs)?;
        Ok(Self { exporter, importer, exports, imports, needs, import_needs, size })
    }

    /// The same on other devices of these adapters. It makes no driver call.
    pub(crate) fn on<'b>(&self, exporter: &'b Device, importer: &'b Device) -> ByHand<'b> {
        let Self { needs, import_needs, size, .. } = *self;
        let handle = self.exports.handle();
        let (exports, imports) = (Hand::new(exporter, handle), Hand::new(importer, handle));
        ByHand { exporter, importer, exports, imports, needs, import_needs, size }
    }

    /// Allocates exportable memory with its buffer.
    pub(crate) fn create(&self) -> Outcome<Block<'a>> {
        self.exports.allocate(self.needs)
    }

    /// Imports the memory on the other device.
    pub(crate) fn share(&self, block: &Block<'_>) -> Outcome<Block<'a>> {
        self.imports.import(self.exports.export(block)?, self.import_needs)
    }

    /// Checks that the importer reads what the exporter writes.
    pub(crate) fn check(&self) -> Outcome<()> {
        let block = self.create()?;
        let shared = self.share(&block)?;
        write_pattern(self.exporter, &block, self.size)?;
        check_pattern(self.importer, &shared, self.size)
    }
}

/// Writes a pattern that depends on the position, on `device`.
pub(crate) fn write_pattern(device: &Device, block: &Block<'_>, size: u64) -> Outcome<()> {
    let mut staging = Block::staging(device, size)?;
    staging.with_bytes(usize::try_from(size)?, |bytes| {
        for (index, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = pattern(index);
        }
    })?;
    Recorded::copy(device, &staging, block, size)?.run()
}

/// Reads the pattern back on `device` and checks it.
pub(crate) fn check_pattern(device: &Device, block: &Block<'_>, size: u64) -> Outcome<()> {
    let mut staging = Block::staging(device, size)?;
    Recorded::copy(device, block, &staging, size)?.run()?;
    let wrong = staging.with_bytes(usize::try_from(size)?, |bytes| {
        let words = bytes.as_chunks::<8>().0.iter().enumerate();
        words.filter(|(index, word)| **word != pattern(*index)).count()
    })?;
    if wrong == 0 { Ok(()) } else { Err(format!("by hand: {wrong} words are wrong").into()) }
}

/// The eight bytes at position `index`. No two positions have the same bytes, since the factor is odd.
fn pattern(index: usize) -> [u8; 8] {
    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes()
}
