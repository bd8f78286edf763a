//! The tile: sums of a panel of x against a strip of W, in registers.

use super::{
    panels::{HEIGHT, Panels},
    stored::{self, Element},
    tasks::Out,
};

/// Rows of W of a strip.
pub const STRIP: usize = 4;
/// Registers of a row in a block of k: a packed strip of f32 then takes half of a first cache of 32 KiB.
pub const BLOCK: usize = 64;
/// Panels between which a strip is packed again, if it has more than one block of k: their sums wait in memory.
const WAITING: usize = 32;

/// Sums of products, in the lanes of one register.
pub trait Sums<const W: usize>: Copy {
    /// What is multiplied, W at a time.
    type Number: Copy + Default;
    /// No sum yet.
    fn zero() -> Self;
    /// Adds the products x · w, each to its lane.
    fn multiply_add(self, x: &[Self::Number; W], w: &[Self::Number; W]) -> Self;
    /// The sum over the lanes, by halves.
    fn finish<const N: usize>(sums: [Self; N]) -> [f32; N];
}

/// Sums of M ≤ 4 rows of x and N of W. Each row is a variable of its own: the compiler keeps what it need not index in registers,
/// and an array of rows in memory, at half the speed.
#[derive(Clone, Copy)]
pub struct Tile<T, const N: usize> {
    a: [T; N],
    b: [T; N],
    c: [T; N],
    d: [T; N],
}

impl<T: Copy, const N: usize> Tile<T, N> {
    #[inline(always)]
    fn zero<const W: usize>() -> Self
    where
        T: Sums<W>,
    {
        let row = [T::zero(); N];
        Tile { a: row, b: row, c: row, d: row }
    }

    /// Adds the products of M rows of x and N of W.
    #[inline(always)]
    fn multiply_add<const W: usize, const M: usize>(&mut self, x: &[[T::Number; W]; M], w: &[[T::Number; W]; N])
    where
        T: Sums<W>,
    {
        add_row(&mut self.a, &x[0], w);
        if M > 1 {
            add_row(&mut self.b, &x[1], w);
        }
        if M > 2 {
            add_row(&mut self.c, &x[2], w);
        }
        if M > 3 {
            add_row(&mut self.d, &x[3], w);
        }
    }

    /// Adds up the lanes and writes y.
    #[inline(always)]
    fn write<const W: usize, const M: usize>(self, row: usize, out: &Out)
    where
        T: Sums<W>,
    {
        out.write(row, T::finish(self.a));
        if M > 1 {
            out.write(row + 1, T::finish(self.b));
        }
        if M > 2 {
            out.write(row + 2, T::finish(self.c));
        }
        if M > 3 {
            out.write(row + 3, T::finish(self.d));
        }
    }
}

#[inline(always)]
fn add_row<T: Sums<W>, const W: usize, const N: usize>(sums: &mut [T; N], x: &[T::Number; W], w: &[[T::Number; W]; N]) {
    for n in 0..N {
        sums[n] = sums[n].multiply_add(x, &w[n]);
    }
}

/// Calls `$f::<…, M>(…)` for the M rows of a panel.
macro_rules! of_height {
    ($height:expr, $f:ident::<$($t:ident),*>($($arg:expr),*)) => {
        match $height {
            1 => $f::<$($t,)* 1>($($arg),*),
            2 => $f::<$($t,)* 2>($($arg),*),
            3 => $f::<$($t,)* 3>($($arg),*),
            _ => $f::<$($t,)* 4>($($arg),*),
        }
    };
}

/// All panels against a strip that is used in place: N of its rows at a time.
#[inline(always)]
pub fn in_place<T: Sums<W>, E: Element<B, T::Number>, const B: usize, const W: usize, const N: usize>(
    panels: &Panels<T::Number>,
    w: [&[u8]; STRIP],
    out: &Out,
) {
    let passes = panels.count() * STRIP / N;
    for panel in 0..panels.count() {
        for (half, w) in w.as_chunks::<N>().0.iter().enumerate() {
            let pass = Pass { index: panel * STRIP / N + half, count: passes };
            let out = out.from(half * N);
            of_height!(panels.height(panel), in_place_pass::<T, E, B, W, N>(panels, panel, *w, pass, &out));
        }
    }
}

/// Which of several passes over the same strip this is: each asks for its share of the weights to come.
#[derive(Clone, Copy)]
struct Pass {
    index: usize,
    count: usize,
}

#[inline(always)]
fn in_place_pass<
    T: Sums<W>,
    E: Element<B, T::Number>,
    const B: usize,
    const W: usize,
    const N: usize,
    const M: usize,
>(
    panels: &Panels<T::Number>,
    panel: usize,
    w: [&[u8]; N],
    pass: Pass,
    out: &Out,
) {
    let registers = w.map(|w| w.as_chunks::<B>().0.as_chunks::<W>());
    let full = registers[0].0.len();
    let (x, w) = (panels.panel::<W, M>(panel), registers.map(|w| &w.0[..full]));
    // The weights of the strip after the next, in the order of their addresses, as memory likes it.
    let share = STRIP * B * W / pass.count;
    let ahead = out.strip.wrapping_add(2 * STRIP * out.stride + pass.index * full * share);
    // Row n of this tile is that of w_n, so that each weight is widened just before its use.
    let mut tile = Tile::<T, M>::zero();
    for (i, x) in x[..full].iter().enumerate() {
        stored::prefetch(ahead, i * share..(i + 1) * share);
        add_row(&mut tile.a, &stored::read::<E, _, B, W>(&w[0][i]), x);
        add_row(&mut tile.b, &stored::read::<E, _, B, W>(&w[1][i]), x);
        if N > 2 {
            add_row(&mut tile.c, &stored::read::<E, _, B, W>(&w[2][i]), x);
            add_row(&mut tile.d, &stored::read::<E, _, B, W>(&w[3][i]), x);
        }
    }
    if let Some(x) = x.get(full) {
        let rest = registers.map(|w| stored::read_rest::<E, _, B, W>(w.1));
        add_row(&mut tile.a, &rest[0], x);
        add_row(&mut tile.b, &rest[1], x);
        if N > 2 {
            add_row(&mut tile.c, &rest[2], x);
            add_row(&mut tile.d, &rest[3], x);
        }
    }
    for m in 0..M {
        let sums: [T; N] = std::array::from_fn(|n| [tile.a[m], tile.b[m], tile.c[m], tile.d[m]][n]);
        out.write(panel * HEIGHT + m, T::finish(sums));
    }
}

/// All panels against a strip that is packed first, block by block of k. `packed`: room for a block.
#[inline(always)]
pub fn packed<T: Sums<W>, E: Element<B, T::Number>, const B: usize, const W: usize, const N: usize>(
    panels: &Panels<T::Number>,
    w: [&[u8]; STRIP],
    packed: &mut [[[T::Number; W]; STRIP]; BLOCK],
    out: &Out,
) {
    let registers = w[0].len().div_ceil(B * W);
    for first in (0..panels.count()).step_by(WAITING) {
        let some = first..panels.count().min(first + WAITING);
        for half in 0..STRIP / N {
            let mut waiting = [Tile::<T, N>::zero(); WAITING];
            for start in (0..registers).step_by(BLOCK) {
                let block = start..registers.min(start + BLOCK);
                let strip = pack::<E, _, B, W>(w, block.clone(), packed);
                for panel in some.clone() {
                    let sums = &mut waiting[panel - first];
                    let at = (block.clone(), half * N, block.end == registers);
                    let out = out.from(half * N);
                    of_height!(panels.height(panel), packed_pass::<T, W, N>(panels, panel, strip, at, sums, &out));
                    if start == 0 && half == 0 {
                        let share = (STRIP * w[0].len()).div_ceil(panels.count()).next_multiple_of(64);
                        let next = out.strip.wrapping_add(STRIP * out.stride);
                        stored::prefetch(next, panel * share..(panel + 1) * share);
                    }
                }
            }
        }
    }
}

/// A block of a strip, [k / W][4][W].
#[inline(always)]
fn pack<'a, E: Element<B, N>, N: Copy + Default, const B: usize, const W: usize>(
    w: [&[u8]; STRIP],
    block: std::ops::Range<usize>,
    packed: &'a mut [[[N; W]; STRIP]; BLOCK],
) -> &'a [[[N; W]; STRIP]] {
    let strip = &mut packed[..block.len()];
    for (n, row) in w.iter().enumerate() {
        let (full, rest) = row.as_chunks::<B>().0.as_chunks::<W>();
        for (register, i) in strip.iter_mut().zip(block.clone()) {
            register[n] = match full.get(i) {
                Some(weights) => stored::read::<E, _, B, W>(weights),
                None => stored::read_rest::<E, _, B, W>(rest),
            };
        }
    }
    strip
}

/// A panel of M rows against N rows of a block of a strip.
#[inline(always)]
fn packed_pass<T: Sums<W>, const W: usize, const N: usize, const M: usize>(
    panels: &Panels<T::Number>,
    panel: usize,
    strip: &[[[T::Number; W]; STRIP]],
    (block, half, last): (std::ops::Range<usize>, usize, bool),
    sums: &mut Tile<T, N>,
    out: &Out,
) {
    let mut tile = *sums;
    for (x, w) in panels.panel::<W, M>(panel)[block].iter().zip(strip) {
        tile.multiply_add::<W, M>(x, w[half..].first_chunk().expect("half a strip"));
    }
    if last {
        tile.write::<W, M>(panel * HEIGHT, out);
    } else {
        *sums = tile;
    }
}
