//! Whether an image is there, and pulling it.

use bollard::query_parameters::CreateImageOptions;
use contract::{Code, ImageRef};
use futures::TryStreamExt as _;

use super::{Deadlines, Error, client::Client};

/// Pulls the image unless it is there.
pub(super) async fn ensure(client: &Client, deadlines: &Deadlines, image: &ImageRef) -> Result<(), Error> {
    let name = image.as_str();
    let found = client.call("inspect image", deadlines.look, async |docker| docker.inspect_image(name).await);
    match found.await {
        Ok(_) => return Ok(()),
        Err(error) if error.code == Code::RUNTIME_IMAGE_MISSING => {}
        Err(error) => return Err(error),
    }
    tracing::info!(image = name, "not here: pulling it");
    let (repository, tag) = split(name);
    let options = CreateImageOptions {
        from_image: Some(repository.to_owned()),
        tag: Some(tag.to_owned()),
        ..Default::default()
    };
    let pulled = client.call("pull", deadlines.pull, async |docker| {
        docker.create_image(Some(options), None, None).try_for_each(async |_progress| Ok(())).await
    });
    pulled.await.map_err(|error| match error.code {
        // The daemon is well; whatever kept it from pulling (no network, no such image, no login), the image is
        // what is missing.
        code if code == Code::RUNTIME_BACKEND_REFUSED
            || code == Code::RUNTIME_IMAGE_MISSING
            || code == Code::RUNTIME_NOT_PERMITTED =>
        {
            let message = format!("{name} is not here and cannot be pulled ({})", error.message);
            Error::new(Code::RUNTIME_IMAGE_MISSING, message)
        }
        _ => error,
    })
}

/// The repository, and the tag or digest. Without one the daemon would pull every tag there is.
fn split(image: &str) -> (&str, &str) {
    if let Some((repository, digest)) = image.split_once('@') {
        // `name:tag@digest`: the digest decides.
        let last = repository.rfind('/').map_or(0, |slash| slash + 1);
        let tag = repository.get(last..).and_then(|name| name.find(':')).map(|colon| last + colon);
        return (tag.and_then(|at| repository.get(..at)).unwrap_or(repository), digest);
    }
    match image.rsplit_once(':') {
        // A colon before a slash belongs to the registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_like_docker_does() {
        for (image, expected) in [
            ("xray", ("xray", "latest")),
            ("ghcr.io/xtls/xray-core:26.3.27", ("ghcr.io/xtls/xray-core", "26.3.27")),
            ("localhost:5000/xray", ("localhost:5000/xray", "latest")),
            ("localhost:5000/xray:1", ("localhost:5000/xray", "1")),
            ("a.example/xray@sha256:00ff", ("a.example/xray", "sha256:00ff")),
            ("a.example:80/xray:1@sha256:00ff", ("a.example:80/xray", "sha256:00ff")),
        ] {
            assert_eq!(split(image), expected, "{image}");
        }
    }
}
