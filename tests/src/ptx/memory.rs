//! The device's memory and that of blocks: every access is checked.

/// Addresses of an allocation begin at a multiple of this: whoever leaves one allocation is in none.
const SPACING: u64 = 1 << 40;

/// Allocations of the device's memory.
#[derive(Default)]
pub struct Memory {
    regions: Vec<Vec<u8>>,
}

impl Memory {
    /// Makes an allocation of these bytes, and gives its address.
    pub fn add(&mut self, bytes: Vec<u8>) -> u64 {
        self.regions.push(bytes);
        self.regions.len() as u64 * SPACING
    }

    /// The bytes from an address on.
    pub fn at(&mut self, address: u64, bytes: usize) -> Result<&mut [u8], String> {
        let (region, place) = ((address / SPACING) as usize, (address % SPACING) as usize);
        let region = region.checked_sub(1).and_then(|at| self.regions.get_mut(at));
        let found = region.and_then(|region| region.get_mut(place..place + bytes));
        found.ok_or_else(|| format!("{bytes} bytes at {address:#x} are nobody's"))
    }
}

/// A number of 1 to 8 bytes.
pub fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// Writes one.
pub fn put(bytes: &mut [u8], number: u64) {
    let length = bytes.len();
    bytes.copy_from_slice(&number.to_le_bytes()[..length]);
}
