//! MQTT 5 by its crate.

use bytes::{Bytes, BytesMut};
use rumqttc_v5::{
    Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Packet as Theirs, QoS, RetainForwardRule, Subscribe, SubscribeFilter, SubscribeReasonCode,
    Unsubscribe,
};
use wiredflow_core::ErrorKind;

use super::{
    Bye, Denied, Garbled, Hello, MOST_SENT, Message, Packet, Refusal, Session, Welcome, in_words,
    with_text,
};
use crate::mqtt::access::Qos;

pub(super) fn write_hello(hello: &Hello<'_>, out: &mut BytesMut) -> Result<(), Garbled> {
    let mut properties = ConnectProperties::new();
    properties.receive_maximum = Some(hello.receive_maximum);
    // No largest packet is named: a broker would drop what is larger without a word, where here it becomes a dead
    // letter.
    if let Session::Kept { seconds } = hello.session {
        properties.session_expiry_interval = Some(seconds);
    }
    let connect = Connect {
        keep_alive: hello.keep_alive,
        client_id: hello.client_id.to_owned(),
        clean_start: hello.session == Session::Clean,
        properties: Some(properties),
    };
    let password = hello
        .password
        .map(|password| Bytes::copy_from_slice(password.expose().as_bytes()));
    let auth = match (hello.username, password) {
        (None, None) => ConnectAuth::None,
        (None, Some(password)) => ConnectAuth::Password { password },
        (Some(username), None) => ConnectAuth::Username {
            username: username.to_owned(),
        },
        (Some(username), Some(password)) => ConnectAuth::UsernamePassword {
            username: username.to_owned(),
            password,
        },
    };
    connect
        .write(&None, &auth, out)
        .map(drop)
        .map_err(Garbled::new)
}

pub(super) fn write_subscribe(
    id: u16,
    filters: &[String],
    qos: Qos,
    out: &mut BytesMut,
) -> Result<(), Garbled> {
    let qos = match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
        Qos::ExactlyOnce => QoS::ExactlyOnce,
    };
    let filter = |path: &String| {
        let mut filter = SubscribeFilter::new(path.clone(), qos);
        // A subscription that is only confirmed brings no retained messages again.
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        filter
    };
    let mut subscribe = Subscribe::new_many(filters.iter().map(filter), None);
    subscribe.pkid = id;
    subscribe.write(out).map(drop).map_err(Garbled::new)
}

pub(super) fn write_unsubscribe(
    id: u16,
    filters: &[String],
    out: &mut BytesMut,
) -> Result<(), Garbled> {
    let unsubscribe = Unsubscribe {
        pkid: id,
        filters: filters.to_vec(),
        properties: None,
    };
    unsubscribe.write(out).map(drop).map_err(Garbled::new)
}

pub(super) fn read(inbox: &mut BytesMut) -> Result<Packet, Garbled> {
    let packet = Theirs::read(inbox, None).map_err(Garbled::new)?;
    Ok(match packet {
        Theirs::Publish(publish) if publish.topic.is_empty() => {
            return Err(Garbled::new("a topic alias, which nobody asked for"));
        }
        Theirs::Publish(publish) => Packet::Message(Message {
            topic: publish.topic,
            id: publish.pkid,
            two_steps: publish.qos == QoS::ExactlyOnce,
            duplicate: publish.dup,
            payload: publish.payload,
        }),
        Theirs::ConnAck(answer) => {
            let properties = answer.properties.as_ref();
            match answer.code {
                ConnectReturnCode::Success => Packet::Welcome(Welcome {
                    session_present: answer.session_present,
                    keep_alive: properties.and_then(|some| some.server_keep_alive),
                    receive_maximum: properties
                        .and_then(|some| some.receive_max)
                        .unwrap_or(u16::MAX),
                    most_packet: properties
                        .and_then(|some| some.max_packet_size)
                        .map_or(MOST_SENT, |most| most as usize),
                    most_qos: properties.and_then(|some| some.max_qos).unwrap_or(2),
                }),
                code => {
                    let text = properties.and_then(|some| some.reason_string.as_deref());
                    Packet::Refused(refusal(code, text))
                }
            }
        }
        Theirs::SubAck(answer) => {
            let text = answer.properties.as_ref();
            let text = text.and_then(|some| some.reason_string.as_deref());
            let granted = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                code => Err(Denied {
                    kind: match code {
                        SubscribeReasonCode::QuotaExceeded => ErrorKind::Remote,
                        _ => ErrorKind::Config,
                    },
                    reason: with_text(in_words(code), text),
                }),
            };
            Packet::Subscribed(answer.return_codes.into_iter().map(granted).collect())
        }
        Theirs::Disconnect(disconnect) => Packet::Bye(bye(&disconnect)),
        other => return Err(Garbled(format!("{:?} out of place", other.packet_type()))),
    })
}

fn refusal(code: ConnectReturnCode, text: Option<&str>) -> Refusal {
    use ConnectReturnCode as Code;
    let kind = match code {
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => return Refusal::Version,
        Code::BadClientId
        | Code::ClientIdentifierNotValid
        | Code::BadUserNamePassword
        | Code::NotAuthorized
        | Code::Banned
        | Code::BadAuthenticationMethod
        | Code::UseAnotherServer
        | Code::ServerMoved => ErrorKind::Config,
        _ => ErrorKind::Remote,
    };
    Refusal::Because(kind, with_text(in_words(code), text))
}

/// The reasons why a published message is not taken.
pub(super) fn denied(reason: u8) -> Denied {
    let (kind, reason) = match reason {
        0x87 => (ErrorKind::Config, "not authorized".to_owned()),
        0x90 => (ErrorKind::Config, "topic name invalid".to_owned()),
        0x95 => (ErrorKind::Data, "packet too large".to_owned()),
        0x97 => (ErrorKind::Remote, "quota exceeded".to_owned()),
        0x99 => (ErrorKind::Data, "payload format invalid".to_owned()),
        other => (ErrorKind::Remote, format!("reason code 0x{other:02x}")),
    };
    Denied { kind, reason }
}

fn bye(disconnect: &Disconnect) -> Bye {
    use DisconnectReasonCode as Code;
    let text = disconnect.properties.as_ref();
    let text = text.and_then(|some| some.reason_string.as_deref());
    let (kind, repeats) = match disconnect.reason_code {
        Code::NotAuthorized | Code::UseAnotherServer | Code::ServerMoved => {
            (ErrorKind::Config, true)
        }
        Code::SessionTakenOver
        | Code::MalformedPacket
        | Code::ProtocolError
        | Code::TopicFilterInvalid
        | Code::TopicNameInvalid
        | Code::ReceiveMaximumExceeded
        | Code::PacketTooLarge
        | Code::QoSNotSupported => (ErrorKind::Remote, true),
        _ => (ErrorKind::Remote, false),
    };
    let mut reason = with_text(in_words(disconnect.reason_code), text);
    if disconnect.reason_code == Code::SessionTakenOver {
        reason.push_str(": does another client use the same `client_id`?");
    }
    Bye {
        kind,
        reason,
        repeats,
    }
}
