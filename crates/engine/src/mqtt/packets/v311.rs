//! MQTT 3.1.1 by its crate.

use bytes::{Bytes, BytesMut};
use rumqttc::{
    Connect, ConnectAuth, ConnectReturnCode, Packet as Theirs, QoS, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use wiredflow_core::ErrorKind;

use super::{
    Denied, Garbled, Hello, MOST_PACKET, MOST_SENT, Message, Packet, Refusal, Session, Welcome,
    in_words,
};
use crate::mqtt::access::Qos;

pub(super) fn write_hello(hello: &Hello<'_>, out: &mut BytesMut) -> Result<(), Garbled> {
    let mut connect = Connect::new(hello.client_id);
    connect.keep_alive = hello.keep_alive;
    connect.clean_session = hello.session == Session::Clean;
    connect.auth = match (hello.username, hello.password) {
        (None, _) => ConnectAuth::None,
        (Some(username), None) => ConnectAuth::Username {
            username: username.to_owned(),
        },
        (Some(username), Some(password)) => ConnectAuth::UsernamePassword {
            username: username.to_owned(),
            password: Bytes::copy_from_slice(password.expose().as_bytes()),
        },
    };
    connect.write(out).map(drop).map_err(Garbled::new)
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
    let filter = |path: &String| SubscribeFilter::new(path.clone(), qos);
    let mut subscribe = Subscribe::new_many(filters.iter().map(filter));
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
        topics: filters.to_vec(),
    };
    unsubscribe.write(out).map(drop).map_err(Garbled::new)
}

pub(super) fn read(inbox: &mut BytesMut) -> Result<Packet, Garbled> {
    let packet = Theirs::read(inbox, MOST_PACKET).map_err(Garbled::new)?;
    Ok(match packet {
        Theirs::Publish(publish) => Packet::Message(Message {
            topic: publish.topic,
            id: publish.pkid,
            two_steps: publish.qos == QoS::ExactlyOnce,
            duplicate: publish.dup,
            payload: publish.payload,
        }),
        Theirs::ConnAck(answer) => match answer.code {
            ConnectReturnCode::Success => Packet::Welcome(Welcome {
                session_present: answer.session_present,
                keep_alive: None,
                receive_maximum: u16::MAX,
                most_packet: MOST_SENT,
                most_qos: 2,
            }),
            code => Packet::Refused(refusal(code)),
        },
        Theirs::SubAck(answer) => {
            let granted = |code: SubscribeReasonCode| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err(Denied {
                    kind: ErrorKind::Config,
                    reason: "not allowed, or not possible".to_owned(),
                }),
            };
            Packet::Subscribed(answer.return_codes.into_iter().map(granted).collect())
        }
        other => return Err(Garbled(format!("{:?} out of place", other.packet_type()))),
    })
}

fn refusal(code: ConnectReturnCode) -> Refusal {
    let kind = match code {
        ConnectReturnCode::RefusedProtocolVersion => return Refusal::Version,
        ConnectReturnCode::ServiceUnavailable => ErrorKind::Remote,
        ConnectReturnCode::Success
        | ConnectReturnCode::BadClientId
        | ConnectReturnCode::BadUserNamePassword
        | ConnectReturnCode::NotAuthorized => ErrorKind::Config,
    };
    Refusal::Because(kind, in_words(code))
}
