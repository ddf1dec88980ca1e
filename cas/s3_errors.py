"""What S3 says when it refuses or fails, in our tree of errors and in words that help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from pyarchiver.formats.errors import ColdError, MissingError, StorageError, TransientError

# Servers refuse requests from 15 minutes off; most clocks that are wrong are wrong by more.
_SKEW = 300.0
_REGION_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "301")
# What a connection, or a TLS layer under it, may raise in the middle of a body.
BROKEN = (boto.HTTPClientError, boto.IncompleteReadError, HTTPError, OSError)

_ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct 'url'",
    "InvalidBucketName": "that is no name of a bucket: correct 'url'",
    "InvalidAccessKeyId": "the access key is not known there: check the AWS credentials",
    "InvalidClientTokenId": "the access key is not known there: check the AWS credentials",
    "SignatureDoesNotMatch": "the secret key is not that of the access key: check the AWS "
    "credentials",
    "InvalidToken": "the session token is not valid: log in again",
    "ExpiredToken": "the session token has expired: log in again",
    "AccessDenied": "the credentials do not allow it: give them the permissions that the README "
    "lists",
    "403": "the credentials do not allow it: give them the permissions that the README lists",
    "InvalidStorageClass": "it has no such storage class: correct 'profile'",
    "BadDigest": "it arrived damaged: run the command again",
    "EntityTooLarge": "it is too large for a single upload: choose a smaller 'pack size'",
    "GlacierExpeditedRetrievalNotAvailable": "expedited thaws are sold out: choose the tier "
    "Standard, or try again later",
}
_FULL = {"QuotaExceeded", "StorageQuotaExceeded", "InsufficientStorage", "InsufficientCapacity",
         "XMinioStorageFull", "NotEnoughSpace", "507"}  # fmt: skip
_BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "TooManyRequests",
         "Throttling", "OperationAborted", "ConditionalRequestConflict"}  # fmt: skip


def code_of(error: boto.ClientError) -> str:
    """The error code of a refusal; the HTTP status where there is no more."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code or str(status_of(error))


def status_of(error: boto.ClientError) -> int:
    """The HTTP status of a refusal."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Raise what boto raises as StorageError; `what` names object, bucket and endpoint."""
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error, what) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as error:
        raise StorageError(
            f"{what}: {_lower(error)}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or fill in "
            "~/.aws/credentials"
        ) from None
    except boto.SSLError as error:
        raise StorageError(f"{what}: no secure connection: {_lower(error)}") from None
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError):
        raise TransientError(
            f"{what}: no server answers: check the network, and 'endpoint' and 'region'"
        ) from None
    except (boto.HTTPClientError, boto.IncompleteReadError, HTTPError) as error:
        raise TransientError(f"{what}: the connection was lost: {_lower(error)}") from None
    except boto.BotoCoreError as error:
        raise StorageError(f"{what}: {_lower(error)}") from None
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from None


def _refusal(error: boto.ClientError, what: str) -> StorageError:
    code, status = code_of(error), status_of(error)
    if code == "InvalidObjectState":
        return ColdError(f"{what} is cold: it must be thawed before it can be read")
    if code in ("NoSuchKey", "404"):
        return MissingError(f"{what}: not there")
    if code in _BUSY or (status >= 500 and code not in _FULL and code not in _ADVICE):
        return TransientError(f"{what}: the storage is busy or disturbed ({code}): try again later")
    return StorageError(f"{what}: {_advice(error, code, status)}")


def _advice(error: boto.ClientError, code: str, status: int) -> str:
    skew = _skew(error)
    if code == "RequestTimeTooSkewed" or (400 <= status < 404 and abs(skew) > _SKEW):
        way = "behind" if skew > 0 else "ahead of"
        return (
            f"refused, for this machine's clock is {abs(skew) / 60:.0f} minutes {way} the "
            "storage's: set it right"
        )
    if code in _REGION_CODES:
        return f"the bucket is in another region: {_region(error)}"
    if code in _FULL:
        return "no space left: raise the quota or free some, and run resume"
    message = str(error.response.get("Error", {}).get("Message") or code)
    return _ADVICE.get(code) or f"refused ({code}): {message[:1].lower()}{message[1:].rstrip('.')}"


def _skew(error: boto.ClientError) -> float:
    """Seconds by which the server's clock is ahead of this machine's; 0 if it does not say."""
    headers: dict[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return parsedate_to_datetime(headers["date"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return 0.0


def _region(error: boto.ClientError) -> str:
    details: dict[str, Any] = error.response
    headers = details.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = details.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return f"set 'region' in [s3] to {region}" if region else "set 'region' in [s3]"


def _lower(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:1].lower() + text[1:]
