//! DEFLATE (RFC 1951) read one bit after the other, as permessage-deflate sends it (RFC 7692 §7.2): slow, without tables
//! made in advance, and without any code of the inflater it is compared with.

use std::cmp::Ordering;

/// Why there is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// No whole blocks, or no blocks.
    Invalid,
    /// More than the limit, found as soon as there is.
    TooLarge,
}

/// Longest code, in bits.
const LONGEST: usize = 15;
/// What does not go over the wire (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// RFC 1951 §3.2.7.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The message in a payload, of at most `limit` bytes.
///
/// # Errors
/// Why there is none.
pub fn inflate(payload: &[u8], limit: usize) -> Result<Vec<u8>, Wrong> {
    let bytes = [payload, &TAIL].concat();
    let mut reading = Reading { bytes: &bytes, bit: 0, stream: 0, message: Vec::new(), limit };
    loop {
        let last = reading.block()?;
        let at = reading.bit.div_ceil(8);
        if last {
            // RFC 7692 §7.2.3.4: after a final block comes a new stream, or nothing; what follows in its byte is padding.
            if at == payload.len() {
                return Ok(reading.message);
            }
            if at > payload.len() {
                return Err(Wrong::Invalid);
            }
            reading.bit = at * 8;
            reading.stream = reading.message.len();
        } else if reading.bit == bytes.len() * 8 {
            return Ok(reading.message);
        }
    }
}

struct Reading<'a> {
    bytes: &'a [u8],
    /// How many have been read, from each byte's lowest.
    bit: usize,
    /// Where in the message its stream began: nothing refers to what was before.
    stream: usize,
    message: Vec<u8>,
    limit: usize,
}

/// A canonical code (RFC 1951 §3.2.2): how many codes of each length there are, and their symbols in order.
struct Code {
    counts: [usize; LONGEST + 1],
    symbols: Vec<usize>,
}

impl Reading<'_> {
    /// Reads a block; whether it is the last of its stream.
    fn block(&mut self) -> Result<bool, Wrong> {
        let last = self.bits(1)? == 1;
        match self.bits(2)? {
            0 => self.stored()?,
            1 => {
                let lengths: Vec<usize> = (0..288).map(fixed_length).collect();
                let distances = [5; 30];
                self.coded(&Code::new(&lengths)?, &Code::new(&distances)?)?;
            }
            2 => {
                let (literals, distances) = self.codes()?;
                self.coded(&literals, &distances)?;
            }
            _ => return Err(Wrong::Invalid),
        }
        Ok(last)
    }

    fn stored(&mut self) -> Result<(), Wrong> {
        self.bit = self.bit.next_multiple_of(8);
        let length = self.bits(16)?;
        if self.bits(16)? != !length & 0xffff {
            return Err(Wrong::Invalid);
        }
        for _ in 0..length {
            let byte = self.bits(8)?;
            self.push(byte)?;
        }
        Ok(())
    }

    fn coded(&mut self, literals: &Code, distances: &Code) -> Result<(), Wrong> {
        loop {
            match self.symbol(literals)? {
                byte @ 0..=255 => self.push(byte)?,
                256 => return Ok(()),
                symbol => {
                    let length = self.length(symbol - 257)?;
                    let distance = self.distance(distances)?;
                    if distance > self.message.len() - self.stream {
                        return Err(Wrong::Invalid);
                    }
                    for _ in 0..length {
                        let byte = self.message[self.message.len() - distance];
                        self.push(byte.into())?;
                    }
                }
            }
        }
    }

    /// RFC 1951 §3.2.5: 3 to 10 one by one, then groups of four that are twice as wide as those before; 258 alone.
    fn length(&mut self, code: usize) -> Result<usize, Wrong> {
        match code {
            0..=7 => Ok(3 + code),
            8..=27 => {
                let extra = code / 4 - 1;
                Ok(3 + ((4 + code % 4) << extra) + self.bits(extra)?)
            }
            28 => Ok(258),
            _ => Err(Wrong::Invalid),
        }
    }

    /// RFC 1951 §3.2.5: 1 to 4 one by one, then pairs.
    fn distance(&mut self, distances: &Code) -> Result<usize, Wrong> {
        match self.symbol(distances)? {
            code @ 0..=3 => Ok(1 + code),
            code @ 4..=29 => {
                let extra = code / 2 - 1;
                Ok(1 + ((2 + code % 2) << extra) + self.bits(extra)?)
            }
            _ => Err(Wrong::Invalid),
        }
    }

    /// RFC 1951 §3.2.7: the codes of a block, themselves in code.
    fn codes(&mut self) -> Result<(Code, Code), Wrong> {
        let literals = 257 + self.bits(5)?;
        let distances = 1 + self.bits(5)?;
        let count = 4 + self.bits(4)?;
        if literals > 286 || distances > 30 {
            return Err(Wrong::Invalid);
        }
        let mut lengths = [0; 19];
        for place in &ORDER[..count] {
            lengths[*place] = self.bits(3)?;
        }
        let code = Code::new(&lengths)?.whole()?;
        let mut lengths: Vec<usize> = Vec::new();
        while lengths.len() < literals + distances {
            let (repeated, times) = match self.symbol(&code)? {
                16 => (*lengths.last().ok_or(Wrong::Invalid)?, 3 + self.bits(2)?),
                17 => (0, 3 + self.bits(3)?),
                18 => (0, 11 + self.bits(7)?),
                length => (length, 1),
            };
            lengths.extend(std::iter::repeat_n(repeated, times));
        }
        // A repetition may not go beyond the end; and without its end a block could not be left.
        if lengths.len() > literals + distances || lengths[256] == 0 {
            return Err(Wrong::Invalid);
        }
        let (literals, distances) = lengths.split_at(literals);
        Ok((Code::new(literals)?.whole_or_single()?, Code::new(distances)?.whole_or_single()?))
    }

    fn symbol(&mut self, code: &Code) -> Result<usize, Wrong> {
        let (mut value, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            value |= self.bits(1)?;
            if value < first + count {
                return Ok(code.symbols[index + value - first]);
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(Wrong::Invalid)
    }

    fn bits(&mut self, count: usize) -> Result<usize, Wrong> {
        let mut number = 0;
        for place in 0..count {
            let byte = self.bytes.get(self.bit / 8).ok_or(Wrong::Invalid)?;
            number |= usize::from(byte >> (self.bit % 8) & 1) << place;
            self.bit += 1;
        }
        Ok(number)
    }

    fn push(&mut self, byte: usize) -> Result<(), Wrong> {
        if self.message.len() == self.limit {
            return Err(Wrong::TooLarge);
        }
        self.message.push(u8::try_from(byte).expect("a byte"));
        Ok(())
    }
}

impl Code {
    fn new(lengths: &[usize]) -> Result<Self, Wrong> {
        let mut counts = [0; LONGEST + 1];
        for length in lengths.iter().filter(|length| **length > 0) {
            counts[*length] += 1;
        }
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|symbol| lengths[*symbol] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        let code = Self { counts, symbols };
        if code.fullness() == Ordering::Greater { Err(Wrong::Invalid) } else { Ok(code) }
    }

    /// Whether there are codes left that stand for nothing, or too few for all symbols.
    fn fullness(&self) -> Ordering {
        let taken: usize = (1..=LONGEST).map(|length| self.counts[length] << (LONGEST - length)).sum();
        taken.cmp(&(1 << LONGEST))
    }

    fn whole(self) -> Result<Self, Wrong> {
        if self.fullness() == Ordering::Equal { Ok(self) } else { Err(Wrong::Invalid) }
    }

    /// RFC 1951 §3.2.7: a single code has one bit, of which one value is not taken; or there is none at all.
    fn whole_or_single(self) -> Result<Self, Wrong> {
        let few = self.symbols.len() <= 1 && self.counts[1] == self.symbols.len();
        if few { Ok(self) } else { self.whole() }
    }
}

/// RFC 1951 §3.2.6.
fn fixed_length(symbol: usize) -> usize {
    match symbol {
        144..=255 => 9,
        256..=279 => 7,
        _ => 8,
    }
}
