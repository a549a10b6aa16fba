//! Where addresses lie, in all their spellings.

use super::*;

#[track_caller]
fn check(addresses: &[&str], expected: Space) {
    for address in addresses {
        assert_eq!(space(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn d6_each_address_lies_where_the_registries_say() {
    check(
        &[
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.1.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ],
        Space::Public,
    );
    check(
        &[
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::127.0.0.1",
            "64:ff9b::127.0.0.1",
            "::ffff:0:127.0.0.1",
        ],
        Space::Machine,
    );
    check(
        &[
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::192.168.0.1",
            "64:ff9b:1::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ],
        Space::Private,
    );
}

#[test]
fn d6_metadata_is_refused_in_every_form_even_to_the_file() {
    for host in [
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "0xa9.0376.43518",
        "①⑥⑨.254.169.254",
        "100.100.100.200",
        "[fd00:ec2::254]",
        "metadata.google.internal",
        "METADATA.google.internal.",
    ] {
        let url = Url::parse(&format!("http://{host}/latest/")).unwrap();
        let refused = admit_text(&url, Space::Machine).unwrap_err();
        assert!(refused.to_string().contains("credentials"), "{host}");
    }
}

#[test]
fn a_peer_leads_no_further_inside_than_it_lies() {
    let file = Reach::of_file(&[AllowedHost::parse("db.test:81").unwrap()]);
    let url = |text: &str| Url::parse(text).unwrap();
    let any = url("http://any/");
    assert_eq!(file.deepest(&any), Space::Machine);
    assert_eq!(file.led_by(Space::Machine).deepest(&any), Space::Machine);
    let led = file.led_by(Space::Private);
    assert_eq!(led.deepest(&any), Space::Private);
    assert_eq!(led.led_by(Space::Machine).deepest(&any), Space::Private);
    assert_eq!(led.of_data().deepest(&any), Space::Public);
    let allowed = file.of_data();
    assert_eq!(allowed.deepest(&url("http://DB.test:81/x")), Space::Machine);
    assert_eq!(allowed.deepest(&url("http://db.test/")), Space::Public);
}

#[test]
fn an_allowed_host_is_one_host_with_or_without_port() {
    let parsed = |text: &str| AllowedHost::parse(text).map(|allowed| (allowed.host, allowed.port));
    let host = |host: &str, port| Some((host.to_owned(), port));
    assert_eq!(parsed("Intranet.Example"), host("intranet.example", None));
    assert_eq!(parsed("localhost:80"), host("localhost", Some(80)));
    assert_eq!(parsed("0x7f.1:8027"), host("127.0.0.1", Some(8027)));
    assert_eq!(parsed("fd00::7"), host("[fd00::7]", None));
    assert_eq!(parsed("[fd00::7]:8080"), host("[fd00::7]", Some(8080)));
    for wrong in [
        "",
        "http://x",
        "x/y",
        "*.x",
        "10.0.0.0/8",
        "a@b",
        "x:0",
        "x:99999",
        "a b",
    ] {
        assert_eq!(parsed(wrong), None, "{wrong}");
    }
    let any = AllowedHost::parse("x").unwrap();
    for url in ["http://x/", "https://x:9/"] {
        assert!(any.is_of(&Url::parse(url).unwrap()));
    }
}
