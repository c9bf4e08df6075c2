//! GPU plans: which kernel family, with which template numbers, multiplies by one factor. Never touches a device.

pub mod plain;
