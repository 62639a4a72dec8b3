//! Classic BPF: a small assembler, and the program of a filter.
//!
//! System call numbers are looked up by a binary search over ranges of equal verdict, so a filter of 350 names costs some six
//! comparisons per call instead of 350.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

const LD_ABS: u16 = 0x20;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

fn op(code: u16, k: u32) -> Op {
    Op { code, jt: 0, jf: 0, k }
}

fn ret(action: u32) -> Vec<Op> {
    vec![op(RET, action)]
}

/// What one system call gets: the first rule whose conditions all hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    pub(super) rules: Vec<(Vec<LinuxSeccompArg>, u32)>,
}

/// The rules of one architecture.
#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) audit: u32,
    pub(super) calls: BTreeMap<u32, Verdict>,
    /// For numbers that the filter's author cannot have known.
    pub(super) unknown: u32,
}

/// The whole program.
pub(super) fn program(sections: &[Section], default: u32, bad_arch: u32) -> Vec<Op> {
    let mut tail = ret(bad_arch);
    for section in sections.iter().rev() {
        let mut block = vec![op(LD_ABS, NR)];
        block.extend(search(&ranges(section, default), default));
        // When the architecture is another one, over the block to the next test.
        let mut code = vec![
            op(LD_ABS, ARCH),
            Op { code: JEQ, jt: 1, jf: 0, k: section.audit },
            op(JA, block.len() as u32),
        ];
        code.extend(block);
        code.extend(tail);
        tail = code;
    }
    tail
}

/// Numbers in order, each with the verdict from there on.
fn ranges(section: &Section, default: u32) -> Vec<(u32, Verdict)> {
    let plain = |action| Verdict { rules: vec![(Vec::new(), action)] };
    let mut ranges = vec![(0, plain(default))];
    let mut set = |from: u32, verdict: Verdict| {
        if ranges.last().is_some_and(|(at, _)| *at == from) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((from, verdict));
        }
    };
    // x32's calls follow far above x86-64's; each block has its own newest call.
    for block in [0..super::table::X32_BIT, super::table::X32_BIT..u32::MAX] {
        set(block.start, plain(default));
        let mut newest = None;
        for (nr, verdict) in section.calls.range(block) {
            set(*nr, verdict.clone());
            set(nr + 1, plain(default));
            newest = Some(*nr);
        }
        if let Some(newest) = newest {
            set(newest + 1, plain(section.unknown));
        }
    }
    ranges
}

fn search(ranges: &[(u32, Verdict)], default: u32) -> Vec<Op> {
    if let [(_, verdict)] = ranges {
        return decide(verdict, default);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((pivot, _)) = high.first() else { return ret(default) };
    let left = search(low, default);
    let mut code = match u8::try_from(left.len()) {
        Ok(over) => vec![Op { code: JGE, jt: over, jf: 0, k: *pivot }],
        Err(_) => vec![Op { code: JGE, jt: 0, jf: 1, k: *pivot }, op(JA, left.len() as u32)],
    };
    code.extend(left);
    code.extend(search(high, default));
    code
}

fn decide(verdict: &Verdict, default: u32) -> Vec<Op> {
    let mut code = Vec::new();
    for (conditions, action) in &verdict.rules {
        if conditions.is_empty() {
            code.extend(ret(*action));
            return code;
        }
        code.extend(rule(conditions, *action));
    }
    code.extend(ret(default));
    code
}

/// Where a comparison goes.
#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

/// All conditions, then the verdict; when one does not hold, past the end.
fn rule(conditions: &[LinuxSeccompArg], action: u32) -> Vec<Op> {
    let blocks: Vec<Vec<(Op, To, To)>> = conditions.iter().map(condition).collect();
    let mut rest: usize = blocks.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(rest);
    for block in blocks {
        let len = block.len();
        for (i, (mut instruction, yes, no)) in block.into_iter().enumerate() {
            let jump = |to| match to {
                To::Next => 0,
                To::Holds => len - i - 1,
                To::Fails => rest - i - 1,
            };
            // At most six conditions of five instructions: every distance fits.
            instruction.jt = jump(yes) as u8;
            instruction.jf = jump(no) as u8;
            code.push(instruction);
        }
        rest -= len;
    }
    code.push(op(RET, action));
    code
}

/// One 64-bit comparison by halves.
fn condition(arg: &LinuxSeccompArg) -> Vec<(Op, To, To)> {
    use LinuxSeccompOperator as O;
    use To::{Fails, Holds, Next};
    let low = ARGS + 8 * arg.index() as u32;
    let load = |half: u32| (op(LD_ABS, low + 4 * half), Next, Next);
    let value = arg.value();
    let (vl, vh) = (value as u32, (value >> 32) as u32);
    match arg.op() {
        O::ScmpCmpEq => vec![load(1), (op(JEQ, vh), Next, Fails), load(0), (op(JEQ, vl), Next, Fails)],
        O::ScmpCmpNe => vec![load(1), (op(JEQ, vh), Next, Holds), load(0), (op(JEQ, vl), Fails, Next)],
        O::ScmpCmpMaskedEq => {
            let want = arg.value_two().unwrap_or(0);
            let (wl, wh) = (want as u32, (want >> 32) as u32);
            let and = |mask| (op(AND, mask), Next, Next);
            vec![load(1), and(vh), (op(JEQ, wh), Next, Fails), load(0), and(vl), (op(JEQ, wl), Next, Fails)]
        }
        O::ScmpCmpGt => compare(load, vh, vl, (JGT, Next, Fails), Holds, Fails),
        O::ScmpCmpGe => compare(load, vh, vl, (JGE, Next, Fails), Holds, Fails),
        O::ScmpCmpLt => compare(load, vh, vl, (JGE, Fails, Next), Fails, Holds),
        O::ScmpCmpLe => compare(load, vh, vl, (JGT, Fails, Next), Fails, Holds),
    }
}

/// The high halves decide unless they are equal: greater, less; then the low ones.
fn compare(
    load: impl Fn(u32) -> (Op, To, To),
    vh: u32,
    vl: u32,
    low: (u16, To, To),
    greater: To,
    less: To,
) -> Vec<(Op, To, To)> {
    vec![
        load(1),
        (op(JGT, vh), greater, To::Next),
        (op(JEQ, vh), To::Next, less),
        load(0),
        (op(low.0, vl), low.1, low.2),
    ]
}

/// Runs a program as the kernel does.
#[cfg(test)]
pub(super) fn simulate(program: &[Op], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[0..4].copy_from_slice(&nr.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (i, a) in args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_le_bytes());
    }
    let (mut pc, mut a) = (0usize, 0u32);
    loop {
        let o = program[pc];
        pc += 1;
        let jump = |yes: bool| usize::from(if yes { o.jt } else { o.jf });
        match o.code {
            LD_ABS => a = u32::from_le_bytes(data[o.k as usize..o.k as usize + 4].try_into().unwrap()),
            AND => a &= o.k,
            JA => pc += o.k as usize,
            JEQ => pc += jump(a == o.k),
            JGT => pc += jump(a > o.k),
            JGE => pc += jump(a >= o.k),
            RET => return o.k,
            code => panic!("code {code}"),
        }
    }
}
