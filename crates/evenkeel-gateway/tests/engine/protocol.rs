//! What is HTTP and what is carried as bytes.

use evenkeel_gateway::engine::{OPENING_BYTES, Opening, Protocol, opening};
use insta::assert_snapshot;

#[test]
fn app_protocol_decides_then_the_name_then_the_port() {
    // Columns: appProtocol, name, port; a hyphen is none.
    let table = [
        "http - 80",
        "HTTP redis 6379",
        "kubernetes.io/ws - 80",
        "kubernetes.io/wss - 80",
        "kubernetes.io/h2c http 80",
        "grpc http 80",
        "grpc-web - 80",
        "https http 443",
        "tcp http 80",
        "example.com/own http 80",
        "- http 6379",
        "- http-api 80",
        "- http2 80",
        "- https 443",
        "- tcp-http 80",
        "- grpc-api 80",
        "- grpc-web-ui 80",
        "- TLS 443",
        "- redis 80",
        "- postgres-rw 80",
        "- mysql 80",
        "- web 80",
        "- web 3306",
        "- - 5432",
        "- - 8080",
    ];
    let given = |text: &'static str| Some(text).filter(|text| *text != "-");
    let rows = table.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let port = words[2].parse().unwrap();
        let protocol = Protocol::declared(given(words[0]), given(words[1]), port);
        format!("{:<17} {:<11} {:<4} {protocol:?}", words[0], words[1], words[2])
    });
    assert_snapshot!(rows.join("\n"), @r"
    http              -           80   Http
    HTTP              redis       6379 Http
    kubernetes.io/ws  -           80   Http
    kubernetes.io/wss -           80   Bytes
    kubernetes.io/h2c http        80   Bytes
    grpc              http        80   Bytes
    grpc-web          -           80   Detect
    https             http        443  Bytes
    tcp               http        80   Bytes
    example.com/own   http        80   Bytes
    -                 http        6379 Http
    -                 http-api    80   Http
    -                 http2       80   Bytes
    -                 https       443  Bytes
    -                 tcp-http    80   Bytes
    -                 grpc-api    80   Bytes
    -                 grpc-web-ui 80   Detect
    -                 TLS         443  Bytes
    -                 redis       80   Bytes
    -                 postgres-rw 80   Bytes
    -                 mysql       80   Bytes
    -                 web         80   Detect
    -                 web         3306 Bytes
    -                 -           5432 Bytes
    -                 -           8080 Detect
    ");
}

#[test]
fn a_method_and_a_path_are_http() {
    let told = |first: &str| format!("{:?}", opening(first.as_bytes()));
    for request in ["GET / HTTP/1.1\r\n", "OPTIONS /a", "DELETE /", "PATCH /", "TRACE /"] {
        assert_eq!(told(request), "Http", "{request}");
    }
    for beginning in ["", "G", "GET ", "P", "OPTIONS ", "POST"] {
        assert_eq!(told(beginning), "Unclear", "{beginning}");
    }
    for other in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PR",
        "get / HTTP/1.1\r\n",
        "GETS /",
        "GET key\r\n",
        "CONNECT db:5432 HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "OPTIONS rtsp://a RTSP/1.0\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "PING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "\x16\x03\x01",
        "\0\0\0\x08\x04",
        "\x10\x0c\0\x04MQTT",
    ] {
        assert_eq!(told(other), "Bytes", "{other:?}");
    }
}

#[test]
fn the_bytes_that_are_looked_at_are_enough() {
    for beginning in ["GET /", "HEAD /", "POST /", "PUT /", "PATCH /", "DELETE /", "OPTIONS /"] {
        assert!(beginning.len() <= OPENING_BYTES);
        for end in 0..beginning.len() {
            assert_eq!(opening(&beginning.as_bytes()[..end]), Opening::Unclear);
        }
        assert_eq!(opening(beginning.as_bytes()), Opening::Http);
    }
}
