//! Full disks, failing calls and kills.
