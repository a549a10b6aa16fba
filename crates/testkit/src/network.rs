//! A network of its own on this machine: a namespace that one cable joins with ours.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// How many this process has made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A namespace with an address, at the far end of a cable. Dropping it takes both away.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    address: String,
}

impl Network {
    /// Makes one.
    ///
    /// # Errors
    /// Why there can be none: that wants `ip` (iproute2) and the rights of root.
    pub(crate) fn make() -> Result<Self, String> {
        // Of the addresses that are for trials between networks (RFC 2544): other tests make networks too.
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let number = (std::process::id() * 4 + made) & 0xffff;
        let (name, high, low) = (format!("wf{number}"), number >> 7, (number & 0x7f) << 1);
        let at = |place: u32| format!("198.{}.{}.{}", 18 + (high >> 8), high & 0xff, low + place);
        ip(&["netns", "add", &name])?;
        let network = Self {
            name,
            address: at(1),
        };
        let Self { name, address } = &network;
        let peer = format!("{name}p");
        ip(&[
            "link", "add", name, "type", "veth", "peer", "name", &peer, "netns", name,
        ])?;
        ip(&["address", "add", &format!("{}/31", at(0)), "dev", name])?;
        ip(&[
            "-n",
            name,
            "address",
            "add",
            &format!("{address}/31"),
            "dev",
            &peer,
        ])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        network.set_cable("up")?;
        Ok(network)
    }

    /// Where it is reached from here.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A program that has this network and no other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Nothing comes through, and nobody is told.
    #[track_caller]
    pub(crate) fn pull_the_cable(&self) {
        self.set_cable("down").expect("the cable is pulled");
    }

    /// The cable is in again.
    #[track_caller]
    pub(crate) fn put_the_cable_in(&self) {
        self.set_cable("up").expect("the cable is put in");
    }

    fn set_cable(&self, state: &str) -> Result<(), String> {
        let peer = format!("{}p", self.name);
        ip(&["-n", &self.name, "link", "set", &peer, state])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with either of its ends.
        drop(ip(&["link", "delete", &self.name]));
        drop(ip(&["netns", "delete", &self.name]));
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
    }
}
