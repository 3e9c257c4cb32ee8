//! Presence and typing over several nodes that are joined by a real `nats-server`.

mod nats_server;

use nats_server::NatsServer;

#[test]
fn the_server_comes_and_goes() {
    let mut server = NatsServer::start();
    let url = server.url();
    let address = url.trim_start_matches("nats://");
    let greets = || {
        let mut first = [0];
        let socket = std::net::TcpStream::connect(address);
        socket.is_ok_and(|mut socket| {
            socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).expect("a time");
            std::io::Read::read(&mut socket, &mut first).is_ok_and(|read| read == 1)
        })
    };
    assert!(greets());
    server.freeze();
    assert!(!greets());
    server.thaw();
    assert!(greets());
    server.stop();
    assert!(!greets());
    server.restart();
    assert_eq!(server.url(), url);
    assert!(greets());
    server.kill();
    assert!(!greets(), "{}", server.log());
}
