//! The key schedule: every key of a session, from one table of labels.
//!
//! ```text
//! master_0     = HKDF-Extract(salt = Noise handshake hash, ikm = raw split k1 || k2)        SHA-256, RFC 5869
//! K(label, n)  = HKDF-Expand(master_n, "mesh 1 " || label || 0x00 || id_i || id_r || u32 n) n big-endian
//! master_n+1   = HKDF-Extract(salt = K("chain", n), ikm = raw split k1 || k2 of the rekey dialogue)
//! ```
//!
//! | label         | bytes | epochs | use                                                         |
//! |---------------|-------|--------|-------------------------------------------------------------|
//! | `tcp i2r`     | 32    | 0      | control frames from initiator to responder                  |
//! | `tcp r2i`     | 32    | 0      | control frames from responder to initiator                  |
//! | `udp i2r`     | 32    | all    | datagrams from initiator to responder, sealed               |
//! | `udp r2i`     | 32    | all    | datagrams from responder to initiator, sealed               |
//! | `cookie i2r`  | 8     | all    | proof in clear datagrams from initiator to responder        |
//! | `cookie r2i`  | 8     | all    | proof in clear datagrams from responder to initiator        |
//! | `wireguard`   | 32    | all    | preshared key of the kernels' WireGuard between both ends   |
//! | `esp i2r`     | 40    | all    | the kernels' ESP from initiator to responder: AES-256 key, salt, SPI |
//! | `esp r2i`     | 40    | all    | the same from responder to initiator                        |
//! | `rekey`       | 32    | all    | the secret of both ends in the dialogue to the next epoch   |
//! | `chain`       | 32    | all    | salt of the next epoch's master                             |
//!
//! A raw split serves as input here and is never a key of a cipher itself. A stolen master opens its own epoch; not an
//! earlier one, for which it holds nothing, nor a later one, into which both ends bring fresh keys, unless the thief
//! takes part in the dialogue itself (see `rekey.rs`).

mod rekey;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use mesh_wire::PeerId;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use self::rekey::{RekeyError, RekeyStep};
use crate::aead::{KEY_LEN, Suite};
use crate::noise::Noise;

/// Length of the cookie in a clear datagram, in bytes.
pub const COOKIE_LEN: usize = 8;

/// Precedes each label, and changes with the schedule.
const PREFIX: &[u8] = b"mesh 1 ";

/// Which side of the control session this router is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dialled.
    Initiator,
    /// It was dialled.
    Responder,
}

/// How datagrams are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted and authenticated.
    Sealed,
    /// Readable, with a cookie that keeps out whoever cannot see the path. Who can see it can also inject.
    Clear,
}

/// All keys of one session, epoch by epoch. Only the current epoch's master is held.
pub struct KeySchedule {
    master: Prk,
    epoch: u32,
    suite: Suite,
    role: Role,
    initiator: PeerId,
    responder: PeerId,
    /// This side's proposal of fresh keys, until it is answered.
    proposal: Option<Box<Noise>>,
}

impl KeySchedule {
    /// The schedule at epoch 0. Both ends build it from the same hash, split, ids and suite, and differ in `role`.
    pub(crate) fn new(
        handshake_hash: &[u8; 32],
        raw_split: &[u8; 64],
        suite: Suite,
        role: Role,
        [initiator, responder]: [PeerId; 2],
    ) -> Self {
        let master = Salt::new(HKDF_SHA256, handshake_hash).extract(raw_split);
        Self { master, epoch: 0, suite, role, initiator, responder, proposal: None }
    }

    /// The current epoch, 0 at first.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The cipher that both ends agreed on.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The keys for datagrams in the current epoch. Asking twice gives the same keys: whoever does must go on with
    /// the counters of the first time.
    #[must_use]
    pub fn data_keys(&self, protection: Protection) -> DataKeys {
        let (send, receive) = self.directions();
        DataKeys {
            epoch: self.epoch,
            send: self.direction_key(protection, send),
            receive: self.direction_key(protection, receive),
        }
    }

    /// What both ends' kernels share in the current epoch.
    #[must_use]
    pub fn wireguard_key(&self) -> WireguardKey {
        WireguardKey(*self.derive(Label::Wireguard))
    }

    /// What both ends' kernels seal and open with by ESP in the current epoch. Asking twice gives the same: a key must not be
    /// installed again once it has sealed anything.
    #[must_use]
    pub fn esp_keys(&self) -> EspKeys {
        let (send, receive) = self.directions();
        let of = |direction| {
            let bytes: Zeroizing<[u8; ESP_KEY_LEN + 4]> = self.derive(Label::Esp(direction));
            let (key, spi) = bytes.split_first_chunk().expect("the array is longer by four bytes");
            let spi = spi.first_chunk().map_or(0, |spi| u32::from_be_bytes(*spi));
            EspKey { key: *key, spi: spi | SPI_FIRST }
        };
        EspKeys { send: of(send), receive: of(receive) }
    }

    /// Goes on to the next epoch, into which `raw_split` brings fresh keys, and overwrites the master of this one.
    fn advance(&mut self, raw_split: &[u8; 64]) {
        let chain: Zeroizing<[u8; KEY_LEN]> = self.derive(Label::Chain);
        self.master = Salt::new(HKDF_SHA256, &*chain).extract(raw_split);
        self.epoch = self.next_epoch();
    }

    /// The keys for control frames, (sending, receiving). They belong to the session's start and no later epoch.
    pub(crate) fn frame_keys(&self) -> (Zeroizing<[u8; KEY_LEN]>, Zeroizing<[u8; KEY_LEN]>) {
        debug_assert_eq!(self.epoch, 0, "control frames keep the keys of epoch 0");
        let (send, receive) = self.directions();
        (self.derive(Label::Tcp(send)), self.derive(Label::Tcp(receive)))
    }

    /// The directions in which this side (sends, receives).
    const fn directions(&self) -> (Direction, Direction) {
        match self.role {
            Role::Initiator => (Direction::ToResponder, Direction::ToInitiator),
            Role::Responder => (Direction::ToInitiator, Direction::ToResponder),
        }
    }

    fn direction_key(&self, protection: Protection, direction: Direction) -> DirectionKey {
        match protection {
            Protection::Sealed => {
                DirectionKey::Sealed { suite: self.suite, key: *self.derive(Label::Udp(direction)) }
            }
            Protection::Clear => DirectionKey::Clear { cookie: *self.derive(Label::Cookie(direction)) },
        }
    }

    fn derive<const LEN: usize>(&self, label: Label) -> Zeroizing<[u8; LEN]> {
        let epoch = self.epoch.to_be_bytes();
        let info: [&[u8]; 6] = [
            PREFIX,
            label.text().as_bytes(),
            &[0],
            self.initiator.as_bytes(),
            self.responder.as_bytes(),
            &epoch,
        ];
        let mut key = Zeroizing::new([0; LEN]);
        self.master
            .expand(&info, OutputLen(LEN))
            .and_then(|output| output.fill(&mut *key))
            .expect("a key is shorter than HKDF's limit of 255 hashes");
        key
    }
}

/// The keys of one epoch for datagrams.
#[derive(Clone)]
pub struct DataKeys {
    /// The epoch they belong to.
    pub epoch: u32,
    /// For what this router sends.
    pub send: DirectionKey,
    /// For what it receives.
    pub receive: DirectionKey,
}

/// The key of one epoch for datagrams in one direction. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub enum DirectionKey {
    /// Datagrams are sealed.
    Sealed {
        /// The cipher.
        #[zeroize(skip)]
        suite: Suite,
        /// Its key.
        key: [u8; KEY_LEN],
    },
    /// Datagrams travel in clear and carry a cookie.
    Clear {
        /// What each datagram must show.
        cookie: [u8; COOKIE_LEN],
    },
}

/// The preshared key of one epoch for the kernels' WireGuard, the same at both ends. Overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct WireguardKey(pub [u8; KEY_LEN]);

/// Length of a key for ESP by AES-GCM: 32 bytes for AES-256, and 4 of salt (RFC 4106, section 8.1).
pub const ESP_KEY_LEN: usize = 36;

/// The least security parameter index: those with this bit set leave alone what is reserved (RFC 4303, section 2.1), and
/// what other programs number from 1.
const SPI_FIRST: u32 = 1 << 31;

/// One direction of the kernels' ESP in one epoch. Overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EspKey {
    /// Key and salt.
    pub key: [u8; ESP_KEY_LEN],
    /// The security parameter index that packets bear.
    pub spi: u32,
}

/// Both directions of the kernels' ESP in one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EspKeys {
    /// For what this router's kernel sends.
    pub send: EspKey,
    /// For what it receives.
    pub receive: EspKey,
}

#[derive(Clone, Copy)]
enum Direction {
    ToResponder,
    ToInitiator,
}

#[derive(Clone, Copy)]
enum Label {
    Tcp(Direction),
    Udp(Direction),
    Cookie(Direction),
    Wireguard,
    Esp(Direction),
    Rekey,
    Chain,
}

impl Label {
    const fn text(self) -> &'static str {
        match self {
            Self::Tcp(Direction::ToResponder) => "tcp i2r",
            Self::Tcp(Direction::ToInitiator) => "tcp r2i",
            Self::Udp(Direction::ToResponder) => "udp i2r",
            Self::Udp(Direction::ToInitiator) => "udp r2i",
            Self::Cookie(Direction::ToResponder) => "cookie i2r",
            Self::Cookie(Direction::ToInitiator) => "cookie r2i",
            Self::Wireguard => "wireguard",
            Self::Esp(Direction::ToResponder) => "esp i2r",
            Self::Esp(Direction::ToInitiator) => "esp r2i",
            Self::Rekey => "rekey",
            Self::Chain => "chain",
        }
    }
}

/// An output length in the form that the HKDF library asks for.
struct OutputLen(usize);

impl KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(role: Role) -> KeySchedule {
        let hash = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let ids = [PeerId::from_bytes([0x11; 16]), PeerId::from_bytes([0x22; 16])];
        KeySchedule::new(&hash, &split(0x80), Suite::ChaCha20Poly1305, role, ids)
    }

    fn split(first: u8) -> [u8; 64] {
        std::array::from_fn(|i| first + u8::try_from(i).unwrap())
    }

    fn bytes(key: &DirectionKey) -> &[u8] {
        match key {
            DirectionKey::Sealed { key, .. } => key,
            DirectionKey::Clear { cookie } => cookie,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keys that an initiator sends and receives with: frames (at epoch 0), sealed, clear.
    fn table(schedule: &KeySchedule) -> Vec<String> {
        let sealed = schedule.data_keys(Protection::Sealed);
        let clear = schedule.data_keys(Protection::Clear);
        [&sealed.send, &sealed.receive, &clear.send, &clear.receive].map(|key| hex(bytes(key))).to_vec()
    }

    /// What an initiator sends and receives with by ESP.
    const ESP_GOLDEN: [(&str, u32); 2] = [
        ("b8189d93915114e45fc4506f17673c957c084b0ac4bac038ae9030fdbdacf2741a029430", 0xd392_eee3),
        ("c76ebd0916122df2a54c3c371c0a0fb083c2205de04aa1d5608735c33c9b50335f6e954d", 0xd5ad_78d2),
    ];

    #[test]
    fn keys_equal_the_golden_table() {
        // From an independent HKDF: Python's hmac and hashlib over the formulas at the top of this file.
        let mut schedule = schedule(Role::Initiator);
        let (send, receive) = schedule.frame_keys();
        assert_eq!(hex(&*send), "18156010d4b84e31939ab9de50847f5e7291b2cf70f9d49dc6793d123c279e19");
        assert_eq!(hex(&*receive), "ebb974d57d0973420213f5675344c4a03d9845546efbeae52749aadf475031ad");
        assert_eq!(
            table(&schedule),
            [
                "315e7907b01d868ebeb3dcbc1c6c8dfe34a84ddf0f960749f27d4a01b975a973",
                "fa459bf75f4046d4d974af095fee7d300b3d6981fd5af9acfd159bf513f60199",
                "261be467de0277ab",
                "f520d9da29d54052"
            ]
        );
        assert_eq!(
            hex(&schedule.wireguard_key().0),
            "444385f24b3369c539bff3de557dda2b4c37bc81981652c4542ad9028ac974d9"
        );
        let esp = schedule.esp_keys();
        assert_eq!(
            [&esp.send, &esp.receive].map(|one| (hex(&one.key), one.spi)),
            ESP_GOLDEN.map(|(key, spi)| (key.to_owned(), spi))
        );
        let rekey: Zeroizing<[u8; KEY_LEN]> = schedule.derive(Label::Rekey);
        assert_eq!(hex(&*rekey), "2387d0654e12c1f9f78b604b68d2f5b4bcdb27fc886d71b3da76d8fd9cc6eecf");
        schedule.advance(&split(0x40));
        assert_eq!(
            table(&schedule),
            [
                "c35e0612287e0f8721b65e3bd1f1ef71ebdccdfe388c6577efa6f10ae162151c",
                "6cbd0541ff26f16ab086f3244cce4b582d242ce87f2c26a3112da9c1991a49f6",
                "dc3a1effe04fb8d4",
                "88d3deca5366583f"
            ]
        );
    }

    #[test]
    fn what_one_side_sends_with_the_other_receives_with() {
        let (mut initiator, mut responder) = (schedule(Role::Initiator), schedule(Role::Responder));
        assert_eq!(initiator.frame_keys().0, responder.frame_keys().1);
        assert_eq!(initiator.frame_keys().1, responder.frame_keys().0);
        for epoch in 0..3 {
            for protection in [Protection::Sealed, Protection::Clear] {
                let (i, r) = (initiator.data_keys(protection), responder.data_keys(protection));
                assert_eq!((i.epoch, r.epoch), (epoch, epoch));
                assert_eq!(bytes(&i.send), bytes(&r.receive));
                assert_eq!(bytes(&i.receive), bytes(&r.send));
                assert_ne!(bytes(&i.send), bytes(&i.receive));
            }
            initiator.advance(&split(epoch.try_into().unwrap()));
            responder.advance(&split(epoch.try_into().unwrap()));
        }
    }

    #[test]
    fn no_key_ever_repeats_across_labels_and_epochs() {
        let mut schedule = schedule(Role::Initiator);
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 0..100 {
            for key in table(&schedule) {
                assert!(seen.insert(key), "a key came twice");
            }
            schedule.advance(&split(epoch));
        }
    }

    #[test]
    fn keys_depend_on_hash_split_and_both_ids() {
        let ids = [PeerId::from_bytes([1; 16]), PeerId::from_bytes([2; 16])];
        let make = |hash: u8, split: u8, ids| {
            table(&KeySchedule::new(&[hash; 32], &[split; 64], Suite::Aes256Gcm, Role::Initiator, ids))
        };
        let base = make(1, 1, ids);
        assert_ne!(base, make(2, 1, ids));
        assert_ne!(base, make(1, 2, ids));
        assert_ne!(base, make(1, 1, [ids[1], ids[0]]));
    }
}
