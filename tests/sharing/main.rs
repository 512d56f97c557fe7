//! Buffers that several devices, engines and the host share: attachments, routes, copies, exports, reports.

#[path = "../common/mod.rs"]
mod common;

mod adopt;
mod attachment;
mod compaction;
mod copy;
mod copy_by;
mod cpu_access;
mod device_addresses;
mod errors;
mod export_import;
mod foreign;
mod foreign_files;
mod handles;
mod image_formats;
mod image_verdicts;
mod importers;
mod imports;
mod kept_slots;
mod limits;
mod look_ups;
mod memory;
mod open_access;
mod providers;
mod report;
mod route_cache;
mod route_faults;
mod routes;
mod slabs;
mod threads;
mod vgem;
mod zeroing;
