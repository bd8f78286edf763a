//! AMX's tile registers, in `asm!`: the intrinsics are not in stable Rust.
//!
//! A thread has eight, tmm0 to tmm7, of 16 rows of 64 bytes each. `tdpbf16ps c, a, b` adds a product of matrices: a holds 16 × 32 numbers
//! of bf16, b 32 × 16 of them, two rows of the matrix side by side in each of its rows, and c 16 × 16 sums in f32. That is 16,384 operations
//! of one instruction, in 16 cycles. (Intel's manual, volume 2, TDPBF16PS.)
//!
//! The compiler knows nothing of these registers, so it leaves them alone between two of the functions below.

mod pack;
mod transpose;

pub use pack::Panels;
pub use transpose::transpose;
pub use transpose::turned;

use std::{arch::asm, marker::PhantomData};

/// Whether the CPU has AMX's tiles and multiplies bf16 with them, and the system allows it: Linux gives a process the 8 KiB of tiles
/// only when it asks (Documentation/arch/x86/xstate.rst).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn is_allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    const AMX_BF16_AND_TILE: u32 = 1 << 22 | 1 << 24; // CPUID 7, EDX
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ALLOWED.get_or_init(|| {
        let has = std::arch::x86_64::__cpuid(0).eax >= 7
            && std::arch::x86_64::__cpuid_count(7, 0).edx & AMX_BF16_AND_TILE == AMX_BF16_AND_TILE;
        // SAFETY: the call changes nothing but what this process may do, and fails where the system does not know it.
        has && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    })
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
pub fn is_allowed() -> bool {
    false // other systems have other ways to ask
}

/// Rows of a tile, and sums or pairs of bf16 in one of its rows.
pub const SIDE: usize = 16;
/// Numbers of bf16 in a row of a tile.
pub const DEPTH: usize = 2 * SIDE;

/// A row of a tile. Aligned, it is one line of the first cache; otherwise each row costs two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    pub const ZERO: Line = Line([0; 64]);

    /// The bytes of some lines.
    pub fn bytes(lines: &mut [Line]) -> &mut [u8] {
        // SAFETY: a line is 64 bytes.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), 64 * lines.len()) }
    }

    /// The lines that lie in a buffer.
    pub fn within(buffer: &mut [f32]) -> &mut [Line] {
        // SAFETY: any bits are a line, and lines that were written are numbers of no meaning.
        unsafe { buffer.align_to_mut::<Line>().1 }
    }
}

/// `ldtilecfg`'s operand: rows and bytes of a row of each register.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

// ANCHOR: tiles
/// The registers of this thread, in use: c's in 0 to 3, a's in 4 and 5, b's in 6 and 7.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// For b and c with this many columns, at most 16.
    ///
    /// # Safety
    /// The CPU must have AMX, and the system must have allowed it to this process.
    pub unsafe fn with_columns(columns: usize) -> Tiles {
        let mut shapes =
            Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for tile in 0..8 {
            let columns = if tile == 4 || tile == 5 { SIDE } else { columns };
            (shapes.rows[tile], shapes.row_bytes[tile]) = (SIDE as u8, 4 * columns as u16);
        }
        // SAFETY: by the caller; the operand is as the manual says.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly)) }
        Tiles(PhantomData)
    }

    /// Sets tile T to zero.
    #[inline(always)]
    pub fn zero<const T: usize>(&self) {
        // SAFETY: a `Tiles` is one that the CPU has.
        unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem)) }
    }

    /// Reads tile T: 16 rows, `stride` bytes apart.
    ///
    /// # Safety
    /// All of them must be readable.
    #[inline(always)]
    pub unsafe fn load<const T: usize>(&self, from: *const u8, stride: usize) {
        // SAFETY: by the caller.
        unsafe {
            asm!("tileloadd tmm{t}, [{from} + {stride}]", t = const T, from = in(reg) from, stride = in(reg) stride,
                options(nostack, readonly));
        }
    }

    /// Writes tile T.
    ///
    /// # Safety
    /// All 16 rows must be writable.
    #[inline(always)]
    pub unsafe fn store<const T: usize>(&self, to: *mut f32, stride: usize) {
        // SAFETY: by the caller.
        unsafe {
            asm!("tilestored [{to} + {stride}], tmm{t}", t = const T, to = in(reg) to, stride = in(reg) stride,
                options(nostack));
        }
    }

    /// c += a · b.
    #[inline(always)]
    pub fn multiply_add<const C: usize, const A: usize, const B: usize>(&self) {
        // SAFETY: as for `zero`.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B, options(nostack, nomem));
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as for `zero`. Without it every switch of threads would save 8 KiB more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}
// ANCHOR_END: tiles

/// Two or one tiles side by side, and how to walk along them.
#[derive(Clone, Copy)]
pub struct Walk {
    /// Where the tiles begin.
    pub start: [*const u8; 2],
    /// Bytes from a row of a tile to the next.
    pub stride: usize,
    /// Bytes from a tile to the next one along k.
    pub step: usize,
}

// ANCHOR: multiply
/// c += a · b over some steps of 32 numbers: two tiles of a, COUNT of b, 2 · COUNT of c. Each number that is read serves two tiles of sums.
/// `fresh`: c begins at zero. `each(step)` runs on the way, to ask for memory that comes next.
///
/// # Safety
/// `tiles` must have the columns of b and c, and all that is walked over must be readable; c must be writable: `[2][16]` rows, `c_stride` bytes
/// apart, of COUNT · columns sums.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn multiply<const COUNT: usize>(
    tiles: &Tiles,
    a: Walk,
    b: Walk,
    steps: usize,
    c: [[*mut f32; COUNT]; 2],
    c_stride: usize,
    fresh: bool,
    mut each: impl FnMut(usize),
) {
    // SAFETY: all by the caller.
    unsafe {
        if fresh {
            tiles.zero::<0>();
            tiles.zero::<1>();
            tiles.zero::<2>();
            tiles.zero::<3>();
        } else {
            tiles.load::<0>(c[0][0].cast(), c_stride);
            tiles.load::<1>(c[1][0].cast(), c_stride);
            if COUNT > 1 {
                tiles.load::<2>(c[0][1].cast(), c_stride);
                tiles.load::<3>(c[1][1].cast(), c_stride);
            }
        }
        for step in 0..steps {
            tiles.load::<6>(b.start[0].add(step * b.step), b.stride);
            tiles.load::<4>(a.start[0].add(step * a.step), a.stride);
            tiles.multiply_add::<0, 4, 6>();
            tiles.load::<5>(a.start[1].add(step * a.step), a.stride);
            tiles.multiply_add::<1, 5, 6>();
            if COUNT > 1 {
                tiles.load::<7>(b.start[1].add(step * b.step), b.stride);
                tiles.multiply_add::<2, 4, 7>();
                tiles.multiply_add::<3, 5, 7>();
            }
            each(step);
        }
        tiles.store::<0>(c[0][0], c_stride);
        tiles.store::<1>(c[1][0], c_stride);
        if COUNT > 1 {
            tiles.store::<2>(c[0][1], c_stride);
            tiles.store::<3>(c[1][1], c_stride);
        }
    }
}
// ANCHOR_END: multiply
