//! Bytes both ways between two hosts, each compared.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use jumbo_lab::traffic::connect::{PATIENCE, connections};
use jumbo_lab::traffic::pattern;
use jumbo_lab::{Family, Host, TestError};

/// So many bytes on each of `flows` connections, both ways at once, each byte compared.
pub(crate) fn transfer(
    one: &Host,
    two: &Host,
    family: Family,
    flows: usize,
    bytes: u64,
) -> Result<(), TestError> {
    let pairs = connections(one, two, family, flows)?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for end in pairs.iter().flat_map(|(client, server)| [client, server]) {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
            threads.push(scope.spawn(move || send(end, bytes)));
            threads.push(scope.spawn(move || receive(end, bytes)));
        }
        for thread in threads {
            thread.join().expect("no panic")?;
        }
        Ok(())
    })
}

fn send(mut to: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        sent += to.write(pattern::at(sent, 100_000.min(bytes - sent) as usize))? as u64;
    }
    to.shutdown(Shutdown::Write)
}

fn receive(mut from: &TcpStream, bytes: u64) -> std::io::Result<()> {
    let (mut received, mut buffer) = (0, vec![0; 100_000]);
    loop {
        let len = from.read(&mut buffer)?;
        if !pattern::matches(received, &buffer[..len]) {
            return Err(std::io::Error::other(format!("damage behind {received}")));
        }
        received += len as u64;
        if len == 0 && received == bytes {
            return Ok(());
        }
        if len == 0 || received > bytes {
            return Err(std::io::Error::other(format!(
                "{received} bytes of {bytes}"
            )));
        }
    }
}
