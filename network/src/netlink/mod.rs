//! Netlink: messages as bytes, and a socket that sends them and waits for the answers.

pub(crate) mod conntrack;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod neighbour;
pub(crate) mod nft;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

pub(crate) use message::Message;
use message::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, Reply};

pub(crate) const NETLINK_ROUTE: isize = 0;
pub(crate) const NETLINK_NETFILTER: isize = 12;

/// How often an interrupted dump is begun again before it counts as failed.
const DUMP_TRIES: usize = 16;

/// Closing the sender makes the kernel look for garbage: the receiver, which is dropped before it, has to be it by then.
pub(crate) struct LeftBehind {
    _receiver: OwnedFd,
    _sender: OwnedFd,
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it, for ever.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both only shape error replies; old kernels without them still answer.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// Makes the kernel close the socket in a thread of its own: drop first this one and then what is returned.
    ///
    /// A message that holds it lies unread in a socket that only the same message holds: garbage, as unix(7) has it, which the kernel
    /// collects in the background.
    pub(crate) fn leave_behind(&self) -> io::Result<LeftBehind> {
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let held = [receiver.as_fd(), self.socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&held));
        sendmsg(&sender, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(LeftBehind { _receiver: receiver, _sender: sender })
    }

    /// Sends the messages in one datagram and waits for each acknowledgement. The kernel goes on after an error; the first one is
    /// returned with the index of its message.
    pub(crate) fn apply(&mut self, messages: Vec<Message>) -> Result<(), (usize, io::Error)> {
        let count = messages.len();
        if count == 0 {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend(message.finish(self.sequence, NLM_F_ACK));
        }
        self.socket.send(&datagram, 0).map_err(|e| (0, e))?;
        let (mut waiting, mut failed) = (count, None);
        while waiting > 0 {
            self.receive(|reply| {
                let index = reply.sequence.wrapping_sub(first) as usize;
                if let (true, Some(result)) = (index < count, reply.ack()) {
                    waiting -= 1;
                    if let Err(error) = result {
                        failed.get_or_insert((index, error));
                    }
                }
                Ok(())
            })
            .map_err(|e| (0, e))?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends one message and waits for its acknowledgement.
    pub(crate) fn run(&mut self, message: Message) -> io::Result<()> {
        self.apply(vec![message]).map_err(|(_, e)| e)
    }

    /// Sends one nf_tables transaction: all or nothing. `generation` makes the kernel refuse it (`ERESTART`) if the rules changed since.
    pub(crate) fn transaction(
        &mut self,
        messages: Vec<Message>,
        generation: Option<u32>,
    ) -> Result<(), (usize, io::Error)> {
        let count = messages.len();
        let begin = self.sequence.wrapping_add(1);
        let mut datagram = nft::batch_begin(generation).finish(begin, 0);
        for (i, message) in messages.into_iter().enumerate() {
            let sequence = begin.wrapping_add(1 + i as u32);
            datagram.extend(message.finish(sequence, if i + 1 == count { NLM_F_ACK } else { 0 }));
        }
        self.sequence = begin.wrapping_add(1 + count as u32);
        datagram.extend(nft::batch_end().finish(self.sequence, 0));
        self.socket.send(&datagram, 0).map_err(|e| (0, e))?;
        let (mut done, mut failed) = (count == 0, None);
        while !done {
            self.receive(|reply| {
                let index = reply.sequence.wrapping_sub(begin) as usize;
                if let (true, Some(result)) = (index <= count, reply.ack()) {
                    // An error about the frame itself ends the batch; otherwise the last message's answer comes last.
                    done |= index == 0 || index == count;
                    if let Err(error) = result {
                        failed.get_or_insert((index.saturating_sub(1), error));
                    }
                }
                Ok(())
            })
            .map_err(|e| (0, e))?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Asks for one object and returns its reply's payload.
    pub(crate) fn get(&mut self, message: Message) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.socket.send(&message.finish(sequence, 0), 0)?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|reply| {
                if reply.sequence == sequence {
                    answer = Some(match reply.ack() {
                        Some(Err(error)) => Err(error),
                        Some(Ok(())) => Err(io::ErrorKind::NotFound.into()),
                        None => Ok(reply.payload.to_vec()),
                    });
                }
                Ok(())
            })?;
        }
        answer.expect("the loop ends when it is set")
    }

    /// Asks for all objects; begins again when the kernel says that the list changed on the way.
    pub(crate) fn dump<T>(
        &mut self,
        message: &Message,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let sequence = self.sequence;
            self.socket.send(&message.clone().finish(sequence, NLM_F_DUMP), 0)?;
            let (mut items, mut done, mut torn) = (Vec::new(), None, false);
            while done.is_none() {
                self.receive(|reply| {
                    if reply.sequence == sequence {
                        torn |= reply.flags & NLM_F_DUMP_INTR != 0;
                        match reply.ack() {
                            Some(result) => done = Some(result),
                            None => items.extend(parse(reply.payload)),
                        }
                    }
                    Ok(())
                })?;
            }
            done.transpose()?;
            if !torn {
                return Ok(items);
            }
        }
        Err(io::Error::other("the kernel's list kept changing"))
    }

    fn receive(&mut self, mut each: impl FnMut(Reply<'_>) -> io::Result<()>) -> io::Result<()> {
        let length = loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        message::replies(&self.buffer[..length.min(self.buffer.len())]).try_for_each(&mut each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's list of the sockets of this network namespace: the inode is the last column.
    fn is_open(inode: u64) -> bool {
        let list = std::fs::read_to_string("/proc/thread-self/net/netlink").expect("a list of sockets");
        list.lines().any(|line| line.split_whitespace().next_back() == Some(&inode.to_string()))
    }

    #[test]
    fn what_is_left_behind_is_closed() {
        let mut socket = Netlink::open(NETLINK_ROUTE).expect("a socket");
        let inode = rustix::fs::fstat(socket.socket.as_fd()).expect("a file").st_ino;
        let left_behind = socket.leave_behind().expect("a message that holds it");
        // Until it is closed it works as before.
        assert!(socket.link("lo").expect("an answer").is_some());
        assert!(is_open(inode));
        drop(socket);
        assert!(is_open(inode), "closed by whoever drops it");
        drop(left_behind);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while is_open(inode) {
            assert!(std::time::Instant::now() < end, "the kernel keeps it");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
