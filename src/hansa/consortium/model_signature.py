"""An OpenSSF model signature of a model file, which `model_signing` and other tools of that format check.

The format takes no Ed25519 keys. So each model is signed by an elliptic-curve key (P-256) that is made for it alone and let go of at
once; the member's statement of where the model comes from (`provenance`), signed by its identity, names the public part.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hansa.errors import IdentityError, PlanError
from hansa.files import read_whole, temporary, write_whole

WITHOUT_SIGNING = "model_signing, which signs models, is not installed: pip install 'hansa[signing]'"


def key_file(signature: Path) -> Path:
    """Where the public key of a signature stands, in PEM."""
    return signature.with_name(signature.name + ".pem")


def check_signing() -> None:
    """Raise PlanError where models cannot be signed here, before a run."""
    try:
        import model_signing  # noqa: F401
    except ImportError as error:
        raise PlanError(WITHOUT_SIGNING, cure="pip install 'hansa[signing]'") from error


def sign_model(model: Path, signature: Path) -> str:
    """Sign a model file with a fresh key; write the signature and, beside it, the public key (`key_file`). Returns that key as PEM.

    Raises OutputError, PlanError.
    """
    check_signing()
    from model_signing import signing

    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with temporary() as folder:  # 0700; the library takes a file
        path, made = folder / "release_key.pem", folder / "model.sig"
        write_whole(path, private)
        signing.Config().use_elliptic_key_signer(private_key=path).sign(model, made)
        content = read_whole(made)
    write_whole(signature, content, private=False)
    write_whole(key_file(signature), public, private=False)
    return public.decode("ascii")


def verify_signature(model: Path, signature: Path, public: str) -> None:
    """Check a model signature under a public key (PEM). Raises IdentityError where it does not hold."""
    check_signing()
    from model_signing import verifying

    with temporary() as folder:
        path = folder / "release_key.pem"
        write_whole(path, public.encode("ascii"))
        try:
            verifying.Config().use_elliptic_key_verifier(public_key=path).verify(model, signature)
        except Exception as error:  # the library raises what its parser, its key and its hash raise
            raise IdentityError(
                f"{signature}: is no signature of {model} under the key that the member's statement names ({type(error).__name__}): "
                "the file was changed, or another key signed it; ask that member for its files anew"
            ) from error
