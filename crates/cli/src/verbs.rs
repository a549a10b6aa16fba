//! The verbs, one file each.

pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod mock;
pub(crate) mod node;
pub(crate) mod profile;
pub(crate) mod remotes;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod stages;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod switch;
pub(crate) mod test;
pub(crate) mod worker;
