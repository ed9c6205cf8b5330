//! How a byte gets from a unit's pipe into its file exactly once, although this process may be killed at any
//! instruction. Two things outlive it, both held by the keeper: the **note** (numbers in a memfd, each stored at once or
//! not at all) and the **hold** (a pipe: what has left a unit's pipe is there until the note says that all has left).
//!
//! A batch goes through these steps. Before the first, the note says *idle*, and the hold is empty or will be emptied.
//!
//! | step | killed after it, the next logger |
//! |---|---|
//! | 1. tee(2) copies what the pipe has into a pipe of our own, which is read and split into records. | begins anew: the unit's pipe is as it was |
//! | 2. The hold is emptied, if that failed after the last batch. | likewise |
//! | 3. The begun line at the batch's end goes into the memfd, where it destroys nothing that counts: behind the begun line that it makes longer, or into the other half of that pipe's slot. | likewise: only the slot's number says which bytes count |
//! | 4. The note names the pipe, its slot, the number that the slot gets, the file and its length. | likewise: while it is *idle* nobody believes it |
//! | 5. The note says *intent*. | cuts the file to the noted length (nothing was written: so it is that long), and says *idle* |
//! | 6. write(2). | cuts the file to the noted length: the records are gone, their bytes are all in the unit's pipe, and the slot has its old number |
//! | 7. The note says *written n*, in one number. | goes on with 8: the records stay |
//! | 8. The slot gets its number. | stores it again |
//! | 9. splice(2) moves n bytes from the unit's pipe into the hold. In the kernel a byte is in one pipe or in the other. | the hold's k bytes (FIONREAD) have left, so n-k are owed: the slot gets its number with that debt, the note says *idle*, and the debt is paid when the keeper hands over that pipe again |
//! | 10. The note says *idle*. | empties the hold: what is in it has been accounted for |
//! | 11. The hold is emptied. | likewise, as far as there is anything left |
//!
//! Each step of the recovery may be the last one too. Cutting a file twice is cutting it once. A debt is stored while the
//! note still says *written n* and the hold still has its k bytes: done again, it comes to the same number. Only then
//! *idle*, only then the hold is emptied. A debt is paid by the same steps 4 and 7 to 11 with n the debt, and a slot number
//! without it: until step 7 the old number counts, after it the debt is worked out anew from the hold.
//!
//! What is **dropped** (`on_full = "drop"`) leaves its pipe by the same steps, without 5 and 6: with step 4 the note has the sums
//! of what was dropped of the unit, this batch among it, and with step 8 they are stored where they count; recovery stores
//! them again, which is the same. When the log is well, the sums are written into it, as a batch that takes nothing from any
//! pipe and whose sums are 0. So each byte is in the log, or in a number in the log, once.
//!
//! A batch without records (a line has only grown) leaves out 5 and 6. One that the disk refuses half way keeps the whole
//! records that were written: the file is cut behind them before step 7, n is what they came from.
//!
//! The begun line leaves the pipe, rather than being left in it, because of the kernel: a write(2) that fills a pipe
//! wakes its reader only if the pipe was empty. (A reader that waits for the end of a line that it left there, and a
//! writer that waits for room, would wait for each other.)
//!
//! A rotation happens only while the note is *idle*, so the file of an *intent* has its unit's first name. It is
//! believed only with the same device and inode: another file is left alone. Nobody writes into a file that has lost that
//! name, nor cuts it; so what packs and removes older files ([`super::shelf`]) never has to do with a note, and begins
//! after the recovery.
//!
//! Read first: [`Exact::commit`] and [`Exact::recover`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SpliceFFlags, fallocate, fcntl};
use nix::sys::stat::fstat;

use super::dir::LogDir;
use super::drops::{Dropped, Drops};
use super::kernel::{Kernel, Sink};
use super::memory::{Words, waiting};
use super::note::{Carry, HALF, MAGIC, SLOT_WORDS, State, WORDS, at, drop_at, line_at};
use super::record;
use crate::ids::{Invocation, LaunchId};
use crate::limits::{LOG_CARRIES, LOG_CARRIES_WARM, LOG_READ, NAME_MAX};

/// A unit's pipe, and what is noted of it.
#[derive(Debug)]
pub struct Source {
    /// Whose.
    pub id: LaunchId,
    /// Its read end.
    pub fd: OwnedFd,
    inode: u64,
    slot: Option<usize>,
    carry: Carry,
}

impl Source {
    /// Bytes of it are in the file already: [`Exact::pay`] comes before anything else.
    pub fn owes(&self) -> bool {
        self.carry.debt > 0
    }
}

/// A unit's file as a batch finds it.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The unit.
    pub unit: &'a str,
    /// Opened for appending.
    pub file: &'a File,
    /// Device and inode.
    pub id: (u64, u64),
    /// Its length.
    pub len: u64,
}

/// What is to be written, and what has then left the pipe.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Where; none without records.
    pub target: Option<Target<'a>>,
    /// Whole records.
    pub records: &'a [u8],
    /// The bytes of the pipe that they, and the begun line, came from.
    pub taken: usize,
    /// The begun line behind them.
    pub partial: &'a [u8],
    /// What is dropped, and told nowhere, once this is done.
    pub dropped: Option<Dropped>,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Done {
    /// Bytes of records that stand in the file.
    pub written: usize,
    /// Bytes that left the pipe.
    pub taken: usize,
    /// Why that is less than the batch had.
    pub refused: Option<io::Error>,
}

/// What a look into a pipe showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// So many bytes stand in the buffer, and are still in the pipe.
    Bytes(usize),
    /// Nothing for now.
    Empty,
    /// All who could write are gone.
    End,
}

/// The note, the hold, and the pipe for looking.
#[derive(Debug)]
pub struct Exact<K> {
    kernel: K,
    words: Words,
    memory: File,
    hold: [OwnedFd; 2],
    look: [OwnedFd; 2],
    drops: Drops,
    /// Slots that nobody uses.
    free: BTreeSet<usize>,
    /// Slots that the last logger used, by launch and pipe, until the keeper hands that pipe over.
    left: BTreeMap<(LaunchId, u64), usize>,
    sink: Sink,
    /// Bytes in the hold; None: it has to be asked.
    in_hold: Option<usize>,
}

impl<K: Kernel> Exact<K> {
    /// Over the keeper's memory and hold (read end first). Recovers nothing yet.
    pub fn new(kernel: K, memory: OwnedFd, hold: [OwnedFd; 2]) -> io::Result<Self> {
        let words = Words::map(&memory, WORDS)?;
        let drops = Drops::map(&memory)?;
        let capacity = |fd: &OwnedFd, wish: Option<i32>| {
            fcntl(fd, wish.map_or(FcntlArg::F_GETPIPE_SZ, FcntlArg::F_SETPIPE_SZ))
        };
        let wish = i32::try_from(LOG_READ).unwrap_or(i32::MAX);
        if capacity(&hold[1], None)? < wish {
            let _ = capacity(&hold[1], Some(wish)); // a host may allow less
        }
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // Whatever fits in here fits in the hold: a pipe's room is counted in pages, however little each has.
        let room = capacity(&hold[1], None)?;
        if capacity(&write, None)? != room {
            let _ = capacity(&write, Some(room));
        }
        if capacity(&write, None)? > room {
            return Err(io::Error::other(format!(
                "the hold has only {room} bytes: raise /proc/sys/fs/pipe-user-pages-soft"
            )));
        }
        let mut exact = Self {
            kernel,
            words,
            memory: File::from(memory),
            hold,
            look: [read, write],
            drops,
            free: BTreeSet::new(),
            left: BTreeMap::new(),
            sink: Sink::new(),
            in_hold: None,
        };
        match exact.words.get(at::MAGIC) {
            MAGIC => {}
            0 => exact.store(at::MAGIC, MAGIC),
            _ => {
                crate::say!(
                    "ringriftd logger: the note of the last logger has another version: what that was writing when it \
                     ended may be missing or doubled"
                );
                exact.store(at::MAGIC, 0);
                (1..WORDS).for_each(|index| exact.store(index, 0));
                exact.store(at::MAGIC, MAGIC);
            }
        }
        Ok(exact)
    }

    fn store(&mut self, index: usize, value: u64) {
        self.kernel.store(&self.words, index, value);
    }

    fn set_state(&mut self, state: State) {
        self.store(at::STATE, state.number());
    }

    // --- after a death -----------------------------------------------------------------------------------------

    /// Ends what the last logger had begun. Before anything else is done with the logs.
    pub fn recover(&mut self, dir: &LogDir) -> io::Result<()> {
        match State::of(self.words.get(at::STATE)) {
            State::Idle => {}
            State::Intent => {
                if let Err(e) = self.cut(dir) {
                    crate::say!(
                        "ringriftd logger: cannot take back what the last logger was writing: {e}; some lines may stand \
                         in a log twice"
                    );
                }
            }
            State::Written(n) => {
                self.count_dropped();
                let owed = n.saturating_sub(waiting(&self.hold[0])?);
                self.owe(owed);
            }
        }
        self.set_state(State::Idle);
        self.empty_hold()?;
        let number = |slot: &usize| self.words.get(at::SLOTS + slot * SLOT_WORDS + 3);
        let (used, free): (Vec<_>, Vec<_>) = (0..LOG_CARRIES).partition(|slot| number(slot) != 0);
        self.free = free.into_iter().collect();
        let launch = |slot: &usize| self.launch_at(at::SLOTS + slot * SLOT_WORDS);
        self.left = used.into_iter().map(|slot| (launch(&slot), slot)).collect();
        Ok(())
    }

    /// Three numbers that name a launch and its pipe.
    fn launch_at(&self, base: usize) -> (LaunchId, u64) {
        let id = LaunchId {
            invocation: Invocation(self.words.get(base)),
            step: u32::try_from(self.words.get(base + 1)).unwrap_or(u32::MAX),
        };
        (id, self.words.get(base + 2))
    }

    /// Takes back what stands in the noted file behind the noted length.
    fn cut(&mut self, dir: &LogDir) -> io::Result<()> {
        let length = (self.words.get(at::NAME_LENGTH) as usize).min(NAME_MAX);
        let mut name = Vec::new();
        for index in 0..NAME_MAX / 8 {
            name.extend_from_slice(&self.words.get(at::NAME + index).to_le_bytes());
        }
        let name = std::str::from_utf8(&name[..length]).unwrap_or_default();
        let id = (self.words.get(at::DEVICE), self.words.get(at::INODE));
        let is_it = |stat: &libc::stat| (stat.st_dev, stat.st_ino) == id;
        if !super::dir::is_unit_name(name) || !dir.stat(name)?.is_some_and(|stat| is_it(&stat)) {
            return Ok(()); // removed, or replaced: there is nothing to take back
        }
        let (file, stat) = dir.append(name)?;
        let len = self.words.get(at::LENGTH);
        if is_it(&stat) && u64::try_from(stat.st_size).unwrap_or(0) > len {
            self.kernel.truncate(&file, len)?;
        }
        Ok(())
    }

    /// The noted sums of what was dropped get their place. They are sums, not what is added: stored again, they are the same.
    fn count_dropped(&mut self) {
        let Some(entry) = (self.words.get(at::DROP) as usize).checked_sub(1) else {
            return;
        };
        for (number, value) in [
            (drop_at::BYTES, at::DROP_BYTES),
            (drop_at::LINES, at::DROP_LINES),
            (drop_at::LIFE, at::DROP_LIFE),
        ] {
            let value = self.words.get(value);
            self.kernel
                .store(self.drops.words(), Drops::index(entry, number), value);
        }
    }

    /// What was dropped of units and is told in no log yet.
    pub fn untold(&self) -> Vec<(String, Dropped)> {
        self.drops.untold()
    }

    /// Where it is counted what is dropped of a unit, and what was until now. None: of too many units already.
    pub fn dropped(&self, unit: &str) -> Option<Dropped> {
        self.drops.of(unit)
    }

    /// Nobody's pipe, for records that come from none.
    pub fn no_pipe(&self) -> io::Result<Source> {
        Ok(Source {
            id: LaunchId::main(Invocation(0)),
            fd: self.hold[0].try_clone()?,
            inode: 0,
            slot: None,
            carry: Carry::default(),
        })
    }

    /// The noted slot gets its number, with what has not left the noted pipe. Stored again, it is the same.
    fn owe(&mut self, debt: usize) -> Option<usize> {
        let mut carry = Carry::of(self.words.get(at::SLOT_NUMBER));
        let noted = (self.words.get(at::SLOT) as usize).checked_sub(1);
        let slot = noted.filter(|slot| *slot < LOG_CARRIES);
        if slot.is_none() {
            carry = Carry::default();
        }
        carry.debt = debt;
        let slot = match slot {
            Some(slot) => slot,
            None if carry.is_free() => return None,
            None => {
                let of = self.launch_at(at::INVOCATION);
                let base = |slot: usize| at::SLOTS + slot * SLOT_WORDS;
                let number = |slot: usize| self.words.get(base(slot) + 3);
                let same = (0..LOG_CARRIES).find(|s| number(*s) != 0 && self.launch_at(base(*s)) == of);
                // With all slots taken, one of the others' begun lines is given up for what would be doubled.
                let slot = same
                    .or_else(|| (0..LOG_CARRIES).find(|s| number(*s) == 0))
                    .unwrap_or(0);
                self.store(base(slot) + 3, 0);
                for word in 0..3 {
                    let value = self.words.get(at::INVOCATION + word);
                    self.store(base(slot) + word, value);
                }
                slot
            }
        };
        self.store(at::SLOTS + slot * SLOT_WORDS + 3, carry.number());
        Some(slot)
    }

    /// Only while the note is *idle*.
    fn empty_hold(&mut self) -> io::Result<()> {
        let mut count = match self.in_hold.take() {
            Some(count) => count,
            None => waiting(&self.hold[0])?,
        };
        while count > 0 {
            match self.kernel.drain(&self.hold[0], &mut self.sink, count) {
                Ok(0) => break,
                Ok(n) => count -= n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.in_hold = Some(0);
        Ok(())
    }

    // --- pipes -------------------------------------------------------------------------------------------------

    /// A pipe that the keeper hands over, with the begun line that the last logger had taken from it.
    pub fn open(&mut self, id: LaunchId, fd: OwnedFd) -> io::Result<(Source, Vec<u8>)> {
        let inode = fstat(&fd)?.st_ino;
        let slot = self.left.remove(&(id, inode));
        let carry = slot.map_or(Carry::default(), |slot| {
            Carry::of(self.words.get(at::SLOTS + slot * SLOT_WORDS + 3))
        });
        let source = Source {
            id,
            fd,
            inode,
            slot,
            carry,
        };
        let partial = self.begun(&source)?;
        Ok((source, partial))
    }

    /// The begun line that is noted for a pipe.
    pub fn begun(&self, source: &Source) -> io::Result<Vec<u8>> {
        let mut partial = vec![0; source.carry.len];
        if let Some(slot) = source.slot {
            let offset = line_at(slot, source.carry.is_second);
            std::os::unix::fs::FileExt::read_exact_at(&self.memory, &mut partial, offset)?;
        }
        Ok(partial)
    }

    /// Moves out of a pipe what is in its file already.
    pub fn pay(&mut self, source: &mut Source) -> io::Result<()> {
        let debt = source.carry.debt;
        if debt == 0 {
            return Ok(());
        }
        let carry = Carry {
            debt: 0,
            ..source.carry
        };
        self.empty_hold()?;
        self.note(source, source.slot, carry, None);
        self.set_state(State::Written(debt));
        self.finish(source, source.slot, carry, debt)
    }

    /// A pipe is given up with its begun line.
    pub fn forget(&mut self, source: &mut Source) {
        if let Some(slot) = source.slot.take() {
            self.store(at::SLOTS + slot * SLOT_WORDS + 3, 0);
            self.release(slot);
        }
        source.carry = Carry::default();
    }

    fn release(&mut self, slot: usize) {
        self.free.insert(slot);
        if slot >= LOG_CARRIES_WARM {
            // As good as it goes: what stays is used again.
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let offset = line_at(slot, false).cast_signed();
            let _ = fallocate(&self.memory, flags, offset, (2 * HALF).cast_signed());
        }
    }

    /// Shows what a pipe has, and leaves it there.
    pub fn peek(&mut self, pipe: &OwnedFd, buffer: &mut [u8]) -> io::Result<Peek> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
        let count = match nix::fcntl::tee(pipe, &self.look[1], buffer.len(), flags) {
            Ok(0) => return Ok(Peek::End),
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Peek::Empty),
            Err(e) => return Err(e.into()),
        };
        let mut read = 0;
        while read < count {
            match nix::unistd::read(&self.look[0], &mut buffer[read..count]) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Peek::Bytes(read))
    }

    // --- a batch -----------------------------------------------------------------------------------------------

    /// There is room for a begun line of this pipe.
    pub fn can_carry(&self, source: &Source) -> bool {
        source.slot.is_some() || !self.free.is_empty() || !self.left.is_empty()
    }

    /// Writes a batch, and moves what it came from out of the pipe. `records` are all written, or less and why. An
    /// error tells that the pipe's bytes could not be moved, or the begun line could not be kept; nothing is doubled.
    pub fn commit(&mut self, source: &mut Source, batch: Batch<'_>) -> io::Result<Done> {
        self.empty_hold()?;
        let (slot, mut carry) = self.carry(source, &batch)?;
        self.note(source, slot, carry, batch.dropped);
        let mut done = Done {
            written: batch.records.len(),
            taken: batch.taken,
            refused: None,
        };
        if let Some(target) = batch.target {
            self.note_file(&target);
            self.set_state(State::Intent);
            let (written, refused) = self.write(target.file, batch.records);
            if written < batch.records.len() {
                let (whole, from) = record::whole(&batch.records[..written]);
                done.written = whole;
                done.taken = from.saturating_sub(source.carry.len); // what was begun had left the pipe before
                done.refused = Some(refused);
                if done.written < written
                    && let Err(e) = self
                        .kernel
                        .truncate(target.file, target.len + done.written as u64)
                {
                    crate::say!(
                        "ringriftd logger: cannot take back a piece of a record from the log of {}: {e}; it stays there",
                        target.unit
                    );
                }
                if done.written == 0 {
                    self.set_state(State::Idle);
                    return Ok(done);
                }
                carry = Carry::default();
                self.store(at::SLOT, source.slot.map_or(0, |slot| slot as u64 + 1));
                self.store(at::SLOT_NUMBER, carry.number());
            }
        }
        let slot = if carry.is_free() { source.slot } else { slot };
        self.set_state(State::Written(done.taken));
        self.finish(source, slot, carry, done.taken)?;
        Ok(done)
    }

    /// Puts the begun line where it destroys nothing, and says where that is.
    fn carry(&mut self, source: &Source, batch: &Batch<'_>) -> io::Result<(Option<usize>, Carry)> {
        let len = batch.partial.len();
        if len == 0 {
            return Ok((source.slot, Carry::default()));
        }
        let slot = match source.slot {
            Some(slot) => slot,
            None => self
                .unused()
                .ok_or_else(|| io::Error::other("too many lines are begun"))?,
        };
        let old = source.carry;
        // Without records the line has only grown; if nothing was dropped either.
        let (is_second, from) = if batch.records.is_empty() && batch.dropped.is_none() {
            (old.is_second, old.len)
        } else {
            (!old.is_second, 0)
        };
        let offset = line_at(slot, is_second) + from as u64;
        self.kernel.keep(&self.memory, &batch.partial[from..], offset)?;
        if source.slot.is_none() {
            let base = at::SLOTS + slot * SLOT_WORDS;
            self.store(base, source.id.invocation.0);
            self.store(base + 1, u64::from(source.id.step));
            self.store(base + 2, source.inode);
        }
        let carry = Carry {
            len,
            is_second,
            debt: 0,
        };
        Ok((Some(slot), carry))
    }

    /// A slot that nobody uses; for want of one, that of a pipe which the keeper has not handed over again.
    fn unused(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.first() {
            return Some(*slot);
        }
        let ((id, _), slot) = self.left.pop_first()?;
        let base = at::SLOTS + slot * SLOT_WORDS;
        let len = Carry::of(self.words.get(base + 3)).len;
        crate::say!("ringriftd logger: {len} bytes of launch {id}, whose pipe is gone, are lost");
        self.store(base + 3, 0);
        self.free.insert(slot);
        Some(slot)
    }

    fn note(&mut self, source: &Source, slot: Option<usize>, carry: Carry, dropped: Option<Dropped>) {
        if let Some(dropped) = dropped {
            self.store(at::DROP_BYTES, dropped.bytes);
            self.store(at::DROP_LINES, dropped.lines);
            self.store(at::DROP_LIFE, dropped.life);
        }
        self.store(at::DROP, dropped.map_or(0, |dropped| dropped.entry as u64 + 1));
        self.store(at::INVOCATION, source.id.invocation.0);
        self.store(at::STEP, u64::from(source.id.step));
        self.store(at::PIPE, source.inode);
        self.store(at::SLOT, slot.map_or(0, |slot| slot as u64 + 1));
        self.store(at::SLOT_NUMBER, carry.number());
    }

    fn note_file(&mut self, target: &Target<'_>) {
        self.store(at::DEVICE, target.id.0);
        self.store(at::INODE, target.id.1);
        self.store(at::LENGTH, target.len);
        self.store(at::NAME_LENGTH, target.unit.len() as u64);
        for (index, part) in target.unit.as_bytes().chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            self.store(at::NAME + index, u64::from_le_bytes(bytes));
        }
    }

    /// How much was written, and why not more.
    fn write(&mut self, file: &File, records: &[u8]) -> (usize, io::Error) {
        let mut written = 0;
        while written < records.len() {
            match self.kernel.write(file, &records[written..]) {
                Ok(0) => return (written, io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (written, e),
            }
        }
        (written, io::ErrorKind::WriteZero.into())
    }

    /// From *written n* to *idle*.
    fn finish(
        &mut self,
        source: &mut Source,
        slot: Option<usize>,
        mut carry: Carry,
        count: usize,
    ) -> io::Result<()> {
        let mut slot = slot;
        self.count_dropped();
        if let Some(slot) = slot {
            self.store(at::SLOTS + slot * SLOT_WORDS + 3, carry.number());
        }
        let (moved, result) = self.move_out(&source.fd, count);
        if moved < count {
            carry.debt = count - moved;
            slot = self.owe(carry.debt);
        }
        self.set_state(State::Idle);
        source.carry = carry;
        source.slot = slot.filter(|_| !carry.is_free());
        if let Some(slot) = slot {
            if carry.is_free() {
                self.release(slot);
            } else {
                self.free.remove(&slot);
            }
        }
        self.empty_hold().and(result)
    }

    /// How many bytes are in the hold now, or gone by another reader's hand.
    fn move_out(&mut self, pipe: &OwnedFd, count: usize) -> (usize, io::Result<()>) {
        let mut moved = 0;
        self.in_hold = None;
        let result = loop {
            if moved == count {
                break Ok(());
            }
            match self.kernel.splice(pipe, &self.hold[1], count - moved) {
                Ok(n) if n > 0 => moved += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A unit may read its own pipe: what it took has left as well. Else the hold is full.
                Ok(_) => return (count, Ok(())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match waiting(pipe) {
                    Ok(0) => return (count, Ok(())),
                    Ok(_) => break Ok(()),
                    Err(e) => break Err(e),
                },
                Err(e) => break Err(e),
            }
        };
        self.in_hold = Some(moved);
        (moved, result)
    }
}

#[cfg(test)]
mod tests {
    //! A logger in miniature, killed before, within and after every call that changes what outlives it, and again in the
    //! midst of its recovery.

    use std::cell::Cell;
    use std::io::Write;
    use std::rc::Rc;
    use std::sync::Arc;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use proto::reply::LineEnd;

    use super::super::kernel::Linux;
    use super::*;
    use crate::keeper::wire::LogKeep;
    use crate::limits::LOG_LINE_MAX;
    use crate::logger::journal::{Journal, Stop};
    use crate::logger::place::Shared;
    use crate::logger::record::{Clock, Record};
    use crate::logger::split::Splitter;
    use proto::log::Stream;

    /// Where in the call that kills.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Where {
        Before,
        Within,
        After,
    }

    /// Counts the calls, and is dead from one of them on.
    #[derive(Debug)]
    struct Mortal {
        calls: Rc<Cell<usize>>,
        last: Option<(usize, Where)>,
        is_dead: bool,
    }

    impl Mortal {
        /// How much of a call of `len` is done, and whether that was the last thing.
        fn call(&mut self, len: usize) -> (usize, bool) {
            if self.is_dead {
                return (0, true);
            }
            let number = self.calls.get();
            self.calls.set(number + 1);
            let Some((_, place)) = self.last.filter(|(last, _)| *last == number) else {
                return (len, false);
            };
            self.is_dead = true;
            match place {
                Where::Before => (0, true),
                Where::Within => (len / 2, true),
                Where::After => (len, true),
            }
        }

        fn end<T>(is_dead: bool, value: T) -> io::Result<T> {
            if is_dead { Err(dead()) } else { Ok(value) }
        }
    }

    fn dead() -> io::Error {
        io::Error::other("killed")
    }

    impl Kernel for Mortal {
        fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<usize> {
            let (len, is_dead) = self.call(bytes.len());
            let n = if len > 0 {
                Linux.write(file, &bytes[..len])?
            } else {
                0
            };
            Self::end(is_dead, n)
        }

        fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
            let (done, is_dead) = self.call(1);
            if done > 0 {
                Linux.truncate(file, len)?;
            }
            Self::end(is_dead, ())
        }

        fn splice(&mut self, from: &OwnedFd, to: &OwnedFd, len: usize) -> io::Result<usize> {
            let (len, is_dead) = self.call(len);
            let n = if len > 0 { Linux.splice(from, to, len)? } else { 0 };
            Self::end(is_dead, n)
        }

        fn drain(&mut self, hold: &OwnedFd, sink: &mut Sink, len: usize) -> io::Result<usize> {
            let (len, is_dead) = self.call(len);
            let n = if len > 0 { Linux.drain(hold, sink, len)? } else { 0 };
            Self::end(is_dead, n)
        }

        fn keep(&mut self, memory: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            let (len, is_dead) = self.call(bytes.len());
            Linux.keep(memory, &bytes[..len], offset)?;
            Self::end(is_dead, ())
        }

        fn store(&mut self, words: &Words, index: usize, value: u64) {
            if self.call(1).0 > 0 {
                Linux.store(words, index, value);
            }
        }
    }

    /// What outlives a logger.
    struct World {
        temp: tempfile::TempDir,
        memory: OwnedFd,
        hold: [OwnedFd; 2],
        /// Launch, unit, both ends of the pipe, what it is of.
        pipes: Vec<(LaunchId, &'static str, OwnedFd, File, Option<Stream>)>,
        /// Whole lines are dropped, not written.
        is_dropping: bool,
    }

    impl World {
        fn new() -> Self {
            let pipe = || {
                let (read, write) = std::io::pipe().expect("a pipe");
                (OwnedFd::from(read), OwnedFd::from(write))
            };
            let (read, write) = pipe();
            // Of one life, two pipes.
            let (out, err) = (Some(Stream::Stdout), Some(Stream::Stderr));
            let units = [(1, "a", None), (2, "b", out), (2, "b", err)];
            let pipes = units.map(|(life, unit, stream)| {
                let (read, write) = pipe();
                let id = LaunchId::main(Invocation(life));
                (id, unit, read, File::from(write), stream)
            });
            Self {
                temp: tempfile::tempdir().expect("a folder"),
                memory: memfd_create(c"logger", MFdFlags::MFD_CLOEXEC).expect("a memfd"),
                hold: [read, write],
                pipes: pipes.into(),
                is_dropping: false,
            }
        }

        /// One logger's life: it takes everything that is in the pipes, unless it is killed. Returns how many calls it made.
        fn live(&self, last: Option<(usize, Where)>, is_end: bool) -> usize {
            let calls = Rc::new(Cell::new(0));
            let kernel = Mortal {
                calls: calls.clone(),
                last,
                is_dead: false,
            };
            let _ = self.try_live(kernel, is_end);
            calls.get()
        }

        fn try_live(&self, kernel: Mortal, is_end: bool) -> io::Result<()> {
            let dir = LogDir::open(&self.temp.path().join("log"))?;
            let again = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
            let mut exact = Exact::new(kernel, again(&self.memory), self.hold.each_ref().map(again))?;
            exact.recover(&dir)?;
            let shared = Arc::new(Shared::new(dir));
            let mut journals: BTreeMap<&str, Journal> = ["a", "b"]
                .into_iter()
                .map(|name| {
                    let mut journal = Journal::new(shared.clone(), shared.unit(name).expect("a name"));
                    journal.set_bounds(9_000, 50, LogKeep::default());
                    (name, journal)
                })
                .collect();
            let mut clock = Clock::new();
            for (unit, dropped) in exact.untold() {
                let journal = journals.get_mut(unit.as_str()).expect("one of two");
                journal.set_untold(dropped);
                journal.set_bounds(9_000, 50, LogKeep::default());
                if !self.is_dropping {
                    journal
                        .tell_dropped(&mut exact, &mut clock)
                        .map_err(|Stop| dead())?;
                }
            }
            let mut buffer = vec![0; LOG_READ];
            for (id, unit, read, _, stream) in &self.pipes {
                if exact.kernel.is_dead {
                    return Err(dead());
                }
                let journal = journals.get_mut(unit).expect("one of two");
                let (mut source, begun) = exact.open(*id, again(read))?;
                let mut splitter = Splitter::default();
                splitter.begin(begun);
                exact.pay(&mut source)?;
                let life = id.invocation.0;
                let mut put = |journal: &mut Journal, (invocation, end, message): (u64, LineEnd, &[u8])| {
                    let record = Record {
                        at_us: 1,
                        invocation,
                        end,
                        stream: *stream,
                        message,
                    };
                    journal.put(&mut clock, record)
                };
                while let Peek::Bytes(n) = exact.peek(&source.fd, &mut buffer)? {
                    let mut done = 0;
                    while done < n {
                        if exact.kernel.is_dead {
                            return Err(dead());
                        }
                        if self.is_dropping {
                            let (mut bytes, mut lines) = (0, 0);
                            let taken = splitter.split(&buffer[done..n], |end, message| {
                                let is_whole = end == LineEnd::Whole;
                                bytes += message.len() as u64 + u64::from(is_whole);
                                lines += u64::from(is_whole);
                                Ok(())
                            });
                            let partial = splitter.partial();
                            journal
                                .drop_lines(&mut exact, &mut source, taken, partial, (bytes, lines))
                                .map_err(|Stop| dead())?;
                            done += taken;
                            continue;
                        }
                        let taken = splitter.split(&buffer[done..n], |end, message| {
                            put(journal, (life, end, message))
                        });
                        journal
                            .commit(&mut exact, &mut source, taken, splitter.partial())
                            .map_err(|Stop| dead())?;
                        done += taken;
                    }
                }
                if is_end && !splitter.partial().is_empty() {
                    put(journal, (life, LineEnd::Partial, splitter.partial())).map_err(|Stop| dead())?;
                    journal
                        .commit(&mut exact, &mut source, 0, &[])
                        .map_err(|Stop| dead())?;
                }
            }
            if exact.kernel.is_dead { Err(dead()) } else { Ok(()) }
        }
    }

    /// Every byte that a life wrote, by all of a unit's files.
    fn bytes_of(world: &World, unit: &str, life: u64, stream: Option<Stream>) -> Vec<u8> {
        let mut all = Vec::new();
        for index in (0..50).rev() {
            let name = match index {
                0 => format!("{unit}.log"),
                _ => format!("{unit}.log.{index}"),
            };
            let Ok(text) = std::fs::read(world.temp.path().join("log").join(name)) else {
                continue;
            };
            for line in text.split_inclusive(|b| *b == b'\n') {
                let line = line.strip_suffix(b"\n").expect("a whole record");
                if dropped_in(line).is_some() {
                    continue;
                }
                let record =
                    record::parse(line).unwrap_or_else(|| panic!("no record: {}", line.escape_ascii()));
                if (record.invocation, record.stream) == (life, stream) {
                    all.extend(record.message);
                    all.extend(if record.end == LineEnd::Whole {
                        &b"\n"[..]
                    } else {
                        b""
                    });
                }
            }
        }
        all
    }

    /// Bytes and lines that a line of a log says were dropped.
    fn dropped_in(line: &[u8]) -> Option<(u64, u64)> {
        let text = std::str::from_utf8(line).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        (words.get(2) == Some(&"!")).then(|| {
            let number = |at: usize| words[at].parse().expect("a number");
            (number(6), number(3))
        })
    }

    /// Killed at call `last` of round `round`: the second one is dropped, the third one tells of it.
    fn all_is_there_or_counted(round: usize, last: (usize, Where)) -> usize {
        let mut world = World::new();
        let mut expected = vec![Vec::new(); world.pipes.len()];
        let mut dropped: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let mut calls = 0;
        for now in 0..3 {
            world.is_dropping = now == 1;
            for (n, (_, unit, _, pipe, _)) in world.pipes.iter_mut().enumerate() {
                let begun = "b".repeat(40 * n);
                // In the second round one line goes on that was begun in the first, and is dropped with its beginning.
                let text = match now {
                    0 => format!("{n} first\n{begun}"),
                    1 => format!("more\n{n} second\n{}\n", "x".repeat(5000)),
                    _ => format!("{n} third\n"),
                };
                pipe.write_all(text.as_bytes()).expect("written");
                if now == 1 {
                    let sums = dropped.entry(unit).or_default();
                    sums.0 += (text.len() + begun.len()) as u64;
                    sums.1 += 3;
                } else {
                    let whole = text.strip_suffix(&begun).unwrap_or(&text);
                    expected[n].extend(whole.bytes());
                }
            }
            if now == round {
                calls = world.live(Some(last), false);
            }
            world.live(None, now == 2);
        }
        for (n, (id, unit, read, _, stream)) in world.pipes.iter().enumerate() {
            let found = bytes_of(&world, unit, id.invocation.0, *stream);
            assert!(
                found == expected[n],
                "launch {id}, killed at {last:?} of round {round}: {}",
                found.escape_ascii()
            );
            assert_eq!(waiting(read).expect("FIONREAD"), 0);
        }
        for (unit, sums) in dropped {
            let path = world.temp.path().join("log").join(format!("{unit}.log"));
            let text = std::fs::read(path).expect("read");
            let told = text.split(|b| *b == b'\n').filter_map(dropped_in);
            let all = told.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert_eq!(all, sums, "{unit}, killed at {last:?} of round {round}");
        }
        calls
    }

    #[test]
    fn what_is_dropped_is_counted_exactly_at_whatever_call_a_logger_is_killed() {
        for round in 1..3 {
            let calls = all_is_there_or_counted(round, (usize::MAX, Where::Before));
            assert!(calls > 20, "{calls} calls are no test");
            for call in 0..calls {
                let place = [Where::Before, Where::Within, Where::After][(call + round) % 3];
                all_is_there_or_counted(round, (call, place));
            }
        }
    }

    /// Three rounds of output, a logger's life for each; the one of round `round` is killed, and so is the one after it.
    fn all_is_there(round: usize, last: (usize, Where), next: (usize, Where)) -> usize {
        let mut world = World::new();
        let mut expected = vec![Vec::new(); world.pipes.len()];
        let mut calls = 0;
        for now in 0..3 {
            for (n, (_, _, _, pipe, _)) in world.pipes.iter_mut().enumerate() {
                let mut text = format!("{n}.{now} whole\n{}\nbegun {n}.{now}", "x".repeat(3000)).into_bytes();
                if now == n {
                    // A line of two pieces and a bit, without its end.
                    text.extend(vec![b'y'; 2 * LOG_LINE_MAX + 100 * n]);
                }
                pipe.write_all(&text).expect("written");
                expected[n].extend(text);
            }
            if now == round {
                calls = world.live(Some(last), false);
                world.live(Some(next), false);
            }
            world.live(None, now == 2);
        }
        for (n, (id, unit, read, _, stream)) in world.pipes.iter().enumerate() {
            let found = bytes_of(&world, unit, id.invocation.0, *stream);
            assert!(
                found == expected[n],
                "launch {id}, killed at {last:?} of round {round}, then at {next:?}: {} bytes, not {}",
                found.len(),
                expected[n].len()
            );
            assert_eq!(waiting(read).expect("FIONREAD"), 0);
        }
        assert_eq!(waiting(&world.hold[0]).expect("FIONREAD"), 0);
        let words = Words::map(&world.memory, WORDS).expect("mapped");
        assert_eq!(State::of(words.get(at::STATE)), State::Idle);
        let used = (0..LOG_CARRIES).filter(|s| words.get(at::SLOTS + s * SLOT_WORDS + 3) != 0);
        assert_eq!(used.count(), 0, "slots that are never given back");
        calls
    }

    #[test]
    fn no_byte_is_lost_or_doubled_at_whatever_call_a_logger_and_its_successor_are_killed() {
        let never = (usize::MAX, Where::Before);
        let mut kills = 0;
        for round in 0..3 {
            let calls = all_is_there(round, never, never);
            assert!(calls > 50, "{calls} calls are no test");
            for call in 0..calls {
                let places = [Where::Before, Where::Within, Where::After];
                // All three places in one round, in the others one after the other.
                let places = if round == 1 {
                    &places[..]
                } else {
                    &places[call % 3..][..1]
                };
                for place in places {
                    // The successor dies in its first calls, which are its recovery's, or later.
                    let next = [Where::Before, Where::Within, Where::After][kills % 3];
                    all_is_there(round, (call, *place), ((kills / 3) % 17, next));
                    kills += 1;
                }
            }
        }
    }

    #[test]
    fn a_note_of_another_version_and_one_of_nonsense_are_survived() {
        for state in [u64::MAX, 1, 2 | 7 << 2] {
            let world = World::new();
            let words = Words::map(&world.memory, WORDS).expect("mapped");
            words.set(at::MAGIC, MAGIC);
            (1..WORDS).for_each(|index| words.set(index, state));
            assert!(world.live(None, true) > 0);
            words.set(at::MAGIC, MAGIC + 1);
            assert!(world.live(None, true) > 0);
            assert_eq!(words.get(at::MAGIC), MAGIC);
            assert_eq!(words.get(at::SLOTS + 3), 0);
        }
    }
}
