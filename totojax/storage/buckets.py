"""What is particular of buckets: accounts and servers, and why they say no."""

import os
import pathlib
import re
from typing import Any
import urllib.error
import urllib.request

from totojax.storage import objects, outages

# What is done to a file -> the right it takes.
_AMAZONS_RIGHTS = {
  "read": "GetObject",
  "written": "PutObject",
  "listed": "ListBucket",
  "deleted": "DeleteObject",
}
_RIGHTS = {"read": "get", "written": "create", "listed": "list", "deleted": "delete"}
# Says so on a machine of Amazon's.
_AMAZONS = pathlib.Path("/sys/class/dmi/id/sys_vendor")
# Google's refusals begin with the account.
_ACCOUNT = re.compile(r"([\w.+-]+@[\w.-]+) does not have (storage\.[\w.]+) access")
_ASIDE_S = 5.0  # that a question may take of which nothing depends but words


def login(driver: str) -> dict[str, Any]:
  """What TensorStore is told of the account and the server, beside the bucket.

  Args:
    driver: TensorStore's name of the kind of store, "gcs" or "s3".

  Raises:
    objects.StoreError: a variable names what cannot be.
  """
  if driver == "s3":
    return _s3()
  if (key := _key_file()) and not os.path.isfile(key):
    # TensorStore would go on as nobody.
    raise objects.StoreError(
      f"GOOGLE_APPLICATION_CREDENTIALS is {key!r}, which is no file; mend or unset it"
    )
  return {}


def _key_file() -> str | None:
  """The key file that TensorStore will read for gs://, where one is named."""
  if os.environ.get("GOOGLE_AUTH_TOKEN_FOR_TESTING"):
    return None
  return os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")


def _s3() -> dict[str, Any]:
  """What the usual variables say of s3:// URLs: server, region and account.

  AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; AWS_REGION or AWS_DEFAULT_REGION. All
  other clients read them; TensorStore reads its credentials alone.
  """
  names = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "aws_region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
  }
  values = {key: next(filter(None, map(os.environ.get, names[key])), None) for key in names}
  spec: dict[str, Any] = {key: value for key, value in values.items() if value}
  if not spec.get("endpoint", "http").startswith("http"):
    raise objects.StoreError(
      f"{' or '.join(names['endpoint'])} is {spec['endpoint']!r}; it is a URL, as https://HOST:PORT"
    )
  if (account := _amazons_login()) != "default":
    spec["aws_credentials"] = {"type": account}
  return spec


def _amazons_login() -> str:
  """Where TensorStore is to look for an account of s3://, as it names the place.

  Left to itself it looks everywhere, and tells in pages, for each array that is
  opened, where there was none.
  """
  have = lambda *names: any(map(os.environ.get, names))
  if have("AWS_ACCESS_KEY_ID"):
    return "environment"
  home = pathlib.Path.home() / ".aws"
  named = "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"
  tokens = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
  if have(*named, *tokens) or any((home / name).is_file() for name in ("config", "credentials")):
    return "default"
  if have("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
    return "ecs"
  if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
    return "anonymous"
  try:
    amazons = "Amazon" in _AMAZONS.read_text(encoding="utf-8")
  except OSError:
    amazons = False
  return "imds" if amazons or have("AWS_EC2_METADATA_SERVICE_ENDPOINT") else "anonymous"


def check_bucket(path: objects.Path) -> None:
  """Raises `objects.StoreError` where what is not there is in no bucket.

  TensorStore is told so, and says of all that is read that it is not there. Of
  Google everybody is told, whoever may read.
  """
  there, code = objects.bucket(path), 0
  if there.startswith("gs://"):
    server = os.environ.get("TENSORSTORE_GCS_HTTP_URL", "https://storage.googleapis.com")
    url = f"{server}/storage/v1/b/{there.removeprefix('gs://')}/o?maxResults=1"
    try:
      urllib.request.urlopen(url, timeout=_ASIDE_S).close()
    except urllib.error.HTTPError as error:
      code = error.code
    except OSError:  # it was worth a try
      pass
  elif there.startswith("s3://"):
    try:
      objects.keys(there, ".listed")
    except objects.StoreError as error:
      code = outages.status(error.__cause__ or error)
  if code == 404:
    raise objects.StoreError(f"{objects.text(path)} {_no_bucket(there)}")


def _no_bucket(there: str) -> str:
  if not there.startswith("gs://"):
    return f"is in no bucket: there is no {there}; make it, or mend the path"
  return (
    f"is in no bucket: there is no {there}; mend the path, or make it in the region of the TPU:"
    f" gcloud storage buckets create {there} --location=REGION"
  )


def refusal(path: objects.Path, action: str, error: BaseException) -> str | None:
  """What is said of `path` where a bucket says no, with what mends it.

  Args:
    path: what was asked for.
    action: what was to be done, as `objects` names it.
    error: of TensorStore.

  Returns:
    The words after the path; None where the error is another.
  """
  code, words = outages.status(error), str(error)
  there = objects.bucket(path)
  login = "gcloud auth application-default login"
  if not there.startswith("gs://"):
    nobody = _amazons_login() == "anonymous"
    whom = "without keys (AWS_ACCESS_KEY_ID, AWS_PROFILE)" if nobody else "by this account"
    reasons = {
      301: f"is in another region ({outages.brief(error)}); set AWS_REGION to that of {there}",
      403: f"may not be {action} {whom} ({outages.brief(error)}); it takes"
      f" s3:{_AMAZONS_RIGHTS[action]} on {there}",
      404: _no_bucket(there),
    }
    return reasons.get(code or 0)
  if code == 404:
    return _no_bucket(there)
  if "JSON credentials file" in words or "load the private key" in words:
    return (
      f"cannot be {action}: GOOGLE_APPLICATION_CREDENTIALS is {_key_file()!r}, no whole key"
      f" of a service account, a user or a federation ({outages.brief(error)})"
    )
  if "requester pays" in words:
    return (
      "is in a bucket that lets its readers pay; use another, or turn that off:"
      f" gcloud storage buckets update {there} --no-requester-pays"
    )
  if "invalid_grant" in words or (code == 401 and "Anonymous" not in words):
    return f"cannot be {action}: the login has expired or was withdrawn; renew it: {login}"
  if code == 401:
    return (
      f"cannot be {action} without a login: {login}, or name a key file in"
      " GOOGLE_APPLICATION_CREDENTIALS, or make the TPU VM with a --service-account"
    )
  if code == 403 and re.search("scope", words, re.IGNORECASE):
    return (
      f"may not be {action} by this machine, whatever its account may, for its access scopes; make"
      " the TPU VM with --scopes=cloud-platform"
    )
  return _forbidden(there, action, error) if code == 403 else None


def _forbidden(there: str, action: str, error: BaseException) -> str:
  """The words for a right that is lacking, and the command that gives it."""
  account, reason = "", f"{outages.brief(error)}; it takes storage.objects.{_RIGHTS[action]}"
  if match := _ACCOUNT.search(str(error)):
    account, right = match.groups()
    reason = f"{right} is lacking"
  kind = "user" if account and not account.endswith("gserviceaccount.com") else "serviceAccount"
  return (
    f"may not be {action} by {account or 'this account'} ({reason}): gcloud storage buckets"
    f" add-iam-policy-binding {there} --member={kind}:{account or 'ACCOUNT'}"
    " --role=roles/storage.objectUser"
  )
