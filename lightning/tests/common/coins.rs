//! Coins under every kind of lock there is, and what opens them.

use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, TapTweak as _};
use bitcoin::opcodes::OP_TRUE;
use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CLTV, OP_CSV, OP_DROP};
use bitcoin::script::Builder;
use bitcoin::secp256k1::{All, Message, Secp256k1, SecretKey};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{LeafVersion, TapLeafHash, TaprootBuilder, TaprootSpendInfo};
use bitcoin::{ScriptBuf, Transaction, TxOut, WPubkeyHash, Witness};

/// The chain's clock when a test begins.
pub const START_S: u64 = 1_800_000_000;
/// Kinds of locks: 0 none; 1, 2 relative, in blocks and in time; 3, 4 absolute, in blocks and in time; 5, 6 taproot
/// by key and by script; 7 a key's hash; 8 pay to anchor.
pub const KINDS: usize = 9;

pub fn anyone() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

/// Signs for, or else unlocks, coins of every kind.
pub struct Keys {
    secp: Secp256k1<All>,
    pair: Keypair,
    taproot: TaprootSpendInfo,
}

/// What locks a coin.
fn locked(kind: usize) -> ScriptBuf {
    let after = |lock: i64, op| Builder::new().push_int(lock).push_opcode(op).push_opcode(OP_DROP).push_opcode(OP_TRUE);
    match kind {
        1 => after(6, OP_CSV).into_script(),
        2 => after((1 << 22) | 2, OP_CSV).into_script(),
        3 => after(112, OP_CLTV).into_script(),
        4 => after(i64::try_from(START_S).unwrap() + 900, OP_CLTV).into_script(),
        _ => anyone(),
    }
}

impl Keys {
    pub fn new() -> Self {
        let secp = Secp256k1::new();
        let pair = Keypair::from_secret_key(&secp, &SecretKey::from_slice(&[7; 32]).unwrap());
        let leaf = Self::leaf(&pair);
        let taproot = TaprootBuilder::new().add_leaf(0, leaf).unwrap();
        let taproot = taproot.finalize(&secp, pair.x_only_public_key().0).unwrap();
        Self { secp, pair, taproot }
    }

    fn leaf(pair: &Keypair) -> ScriptBuf {
        Builder::new().push_x_only_key(&pair.x_only_public_key().0).push_opcode(OP_CHECKSIG).into_script()
    }

    pub fn script(&self, kind: usize) -> ScriptBuf {
        match kind {
            5 | 6 => ScriptBuf::new_p2tr_tweaked(self.taproot.output_key()),
            7 => ScriptBuf::new_p2wpkh(&self.wpkh()),
            8 => ScriptBuf::from_bytes(vec![0x51, 2, 0x4e, 0x73]), // pay to anchor
            _ => locked(kind).to_p2wsh(),
        }
    }

    fn wpkh(&self) -> WPubkeyHash {
        WPubkeyHash::hash(&self.pair.public_key().serialize())
    }

    /// Unlocks every input; `spoil` breaks the first.
    pub fn unlock(&self, tx: &mut Transaction, coins: &[(usize, TxOut)], spoil: bool) {
        let outputs: Vec<TxOut> = coins.iter().map(|c| c.1.clone()).collect();
        for (n, (kind, output)) in coins.iter().enumerate() {
            let mut cache = SighashCache::new(&*tx);
            let prevouts = Prevouts::All(&outputs);
            let taproot = TapSighashType::Default;
            let mut items: Vec<Vec<u8>> = match kind {
                5 => {
                    let hash = cache.taproot_key_spend_signature_hash(n, &prevouts, taproot).unwrap();
                    let pair = self.pair.tap_tweak(&self.secp, self.taproot.merkle_root()).to_keypair();
                    vec![
                        self.secp
                            .sign_schnorr_no_aux_rand(&Message::from_digest(hash.to_byte_array()), &pair)
                            .serialize()
                            .into(),
                    ]
                }
                6 => {
                    let leaf = Self::leaf(&self.pair);
                    let id = TapLeafHash::from_script(&leaf, LeafVersion::TapScript);
                    let hash = cache.taproot_script_spend_signature_hash(n, &prevouts, id, taproot).unwrap();
                    let message = Message::from_digest(hash.to_byte_array());
                    let signature = self.secp.sign_schnorr_no_aux_rand(&message, &self.pair).serialize().to_vec();
                    let control = self.taproot.control_block(&(leaf.clone(), LeafVersion::TapScript)).unwrap();
                    vec![signature, leaf.into_bytes(), control.serialize()]
                }
                7 => {
                    let script = ScriptBuf::new_p2wpkh(&self.wpkh());
                    let all = EcdsaSighashType::All;
                    let hash = cache.p2wpkh_signature_hash(n, &script, output.value, all).unwrap();
                    let message = Message::from_digest(hash.to_byte_array());
                    let mut signature =
                        self.secp.sign_ecdsa(&message, &self.pair.secret_key()).serialize_der().to_vec();
                    signature.push(1);
                    vec![signature, self.pair.public_key().serialize().to_vec()]
                }
                8 => vec![],
                kind => vec![locked(*kind).into_bytes()],
            };
            if spoil && n == 0 {
                match items.first_mut() {
                    Some(item) => *item.last_mut().unwrap() ^= 2,
                    None => items.push(vec![1]),
                }
            }
            tx.input[n].witness = Witness::from_slice(&items);
        }
    }
}
