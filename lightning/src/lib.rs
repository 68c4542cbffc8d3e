//! lightning
