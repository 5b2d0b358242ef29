use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    Code, Error,
    runtime::{DestProbed, ProbeDest},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::Serving;

/// A site that takes longer would give itself away by it.
const WITHIN: Duration = Duration::from_millis(2_500);

/// Whether a site speaks TLS 1.3 with X25519, as REALITY needs it.
pub(crate) async fn probe_dest(_: Arc<Serving>, request: ProbeDest) -> Result<DestProbed, Error> {
    let dest = &request.dest;
    let unreachable = |why: String| {
        Error::new(Code::RUNTIME_TARGET_UNREACHABLE, format!("{dest} cannot be reached from here: {why}"))
    };
    let name = ServerName::try_from(request.server_name.clone()).map_err(|error| {
        Error::new(Code::REQUEST_INVALID, format!("server_name {:?}: {error}", request.server_name))
    })?;
    let connecting = TcpStream::connect((dest.host().to_owned(), dest.port().get()));
    let stream = timeout(WITHIN, connecting)
        .await
        .map_err(|_| unreachable("no answer within 2.5 s".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let started = Instant::now();
    let connector = TlsConnector::from(Arc::new(config()?));
    let refused = |why: String| {
        let what = format!("{dest} does not speak TLS 1.3 with X25519 for {}: {why}", request.server_name);
        Error::new(Code::FLEET_DEST_NOT_TLS13, what)
    };
    timeout(WITHIN, connector.connect(name, stream))
        .await
        .map_err(|_| refused("no handshake within 2.5 s".to_owned()))?
        .map_err(|error| refused(error.to_string()))?;
    let handshake_millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(DestProbed { handshake_millis })
}

/// TLS 1.3 with X25519 and nothing else.
fn config() -> Result<ClientConfig, Error> {
    let provider =
        Arc::new(CryptoProvider { kx_groups: vec![ring::kx_group::X25519], ..ring::default_provider() });
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::new(Code::INTERNAL, error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(config)
}

/// Nothing is sent to the site and nothing it says is believed, so it does not matter who it is: the site of a
/// private network has a certificate of its own making.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
