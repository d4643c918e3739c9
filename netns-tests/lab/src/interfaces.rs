//! The interfaces of a namespace: their addresses, and frames to and from them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::capture::Capture;
use crate::namespace::Namespace;
use crate::packet::{OwnFrames, PacketSocket};

/// Frames of one flood. It ends when it has sent so many, minutes of all that a CPU can send.
const FLOOD_FRAMES_MAX: usize = 200_000_000;

/// A socket that only sends needs no buffer to speak of; the kernel raises this to its minimum.
const SENDER_BUFFER_BYTES: usize = 4096;

impl Namespace {
    /// All addresses of an interface, those of link scope included.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn addresses(&self, interface: &str) -> Result<Vec<IpAddr>> {
        let link = self.interface(interface)?;
        let infos = link.get("addr_info").and_then(Value::as_array).into_iter().flatten();
        let texts = infos.filter_map(|info| info.get("local")?.as_str());
        texts.map(|text| text.parse().with_context(|| format!("ip printed the address {text:?}"))).collect()
    }

    /// The MAC address of an interface, as `aa:bb:cc:dd:ee:ff`.
    ///
    /// # Errors
    /// When there is no such interface, or it has none.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let link = self.interface(interface)?;
        let mac = link.get("address").and_then(Value::as_str);
        Ok(mac.with_context(|| format!("{interface} in {} has no MAC address", self.label()))?.to_owned())
    }

    /// The MTU of an interface, in bytes.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn interface_mtu(&self, interface: &str) -> Result<u32> {
        let link = self.interface(interface)?;
        let mtu = link.get("mtu").and_then(Value::as_u64).and_then(|mtu| mtu.try_into().ok());
        mtu.with_context(|| format!("ip shows no MTU of {interface} in {}", self.label()))
    }

    /// Records what passes an interface, in both directions, beginning now.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        Capture::start(self, interface)
    }

    /// Sends a frame out of an interface as it is, Ethernet header included.
    ///
    /// # Errors
    /// When there is no such interface, or it does not take the frame, for example as too long.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) -> Result<()> {
        let send = || -> Result<()> {
            let socket = PacketSocket::open(interface, OwnFrames::Ignored, SENDER_BUFFER_BYTES)?;
            Ok(socket.send(frame)?)
        };
        self.enter(send)?
            .with_context(|| format!("cannot send a frame out of {interface} in {}", self.label()))
    }

    /// Sends these frames in turn, as fast as the interface takes them, until `is_over`, and tells how many it has taken.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn flood(&self, interface: &str, frames: &[Vec<u8>], is_over: &AtomicBool) -> Result<u64> {
        let send = || -> Result<u64> {
            let socket = PacketSocket::open(interface, OwnFrames::Ignored, SENDER_BUFFER_BYTES)?;
            let more = |_: &&Vec<u8>| !is_over.load(Ordering::Relaxed);
            let sent = frames.iter().cycle().take(FLOOD_FRAMES_MAX).take_while(more);
            // One that does not fit into the queue is lost, as those are that the host drops.
            Ok(sent.map(|frame| u64::from(socket.send(frame).is_ok())).sum())
        };
        self.enter(send)?
            .with_context(|| format!("cannot send frames out of {interface} in {}", self.label()))
    }

    fn interface(&self, name: &str) -> Result<Value> {
        let links: Vec<Value> = self.run(["ip", "-j", "address", "show", "dev", name])?.json()?;
        links.into_iter().next().with_context(|| format!("ip shows no {name} in {}", self.label()))
    }
}
