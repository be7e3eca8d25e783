//! Certificates made for one test: an authority, a server that it vouches for, clients.
//!
//! Owns the files etcd reads and the options its clients take. Nothing of it is ever stored elsewhere.

use std::path::PathBuf;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

use super::support::EtcdServer;

/// Who vouches for the others. Its files are gone with it.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate with its key, as text.
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Authority { issuer, dir: tempfile::tempdir().unwrap() }
    }

    /// A certificate for a server at `host`, which may also be that of a client: etcd calls itself.
    pub(super) fn server(&self, host: &str) -> Pair {
        self.issue(vec![host.to_owned()], "a server")
    }

    /// A certificate for a client by this name.
    pub(super) fn client(&self, name: &str) -> Pair {
        self.issue(Vec::new(), name)
    }

    fn issue(&self, hosts: Vec<String>, name: &str) -> Pair {
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Its own certificate, as text.
    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// TLS options that trust this authority.
    pub(super) fn trusted(&self) -> TlsOptions {
        TlsOptions::new().ca_certificate(Certificate::from_pem(self.pem()))
    }

    /// A server with a certificate for `host`. With `mutual` it wants one of its clients too, and
    /// its own clients in the test have one.
    pub(super) async fn start(&self, host: &str, mutual: bool) -> EtcdServer {
        let pair = self.server(host);
        let file = |name: &str, text: &str| -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let certificate = file("server.pem", &pair.certificate);
        let key = file("server.key", &pair.key);
        let mut args = vec![
            format!("--cert-file={}", certificate.display()),
            format!("--key-file={}", key.display()),
        ];
        let mut tls = self.trusted().domain_name(host);
        if mutual {
            let authority = file("authority.pem", &self.pem());
            args.push(format!("--trusted-ca-file={}", authority.display()));
            args.push("--client-cert-auth".to_owned());
            tls = tls.identity(self.client("the test").identity());
        }
        let options = ConnectOptions::new().with_tls(tls);
        EtcdServer::builder().args(args).tls(options).start().await.unwrap()
    }
}

impl Pair {
    pub(super) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }
}
