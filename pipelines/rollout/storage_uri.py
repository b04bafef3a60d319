"""Whether weights can be where a storage URI says, as far as that can be known from here.

The cluster has the credentials and this process often has not, so only what is certainly wrong is
refused: a scheme that KServe does not know, a form that names nothing, and a URL that is not found.
The candidate's start without traffic is the real trial.
"""

from __future__ import annotations

import re

import httpx

from pipelines.lib.errors import OptionError

# Scheme -> what must follow it, and how that is called.
FORMS = {
    "hf": (r"[^/:]+/[^/:]+(:.+)?", "hf://OWNER/MODEL[:REVISION]"),
    "modelscope": (r"[^/:]+/[^/:]+(:.+)?", "modelscope://OWNER/MODEL[:REVISION]"),
    "s3": (r"[^/]+/.+", "s3://BUCKET/PATH"),
    "gs": (r"[^/]+/.+", "gs://BUCKET/PATH"),
    "pvc": (r"[^/]+(/.*)?", "pvc://CLAIM[/PATH]"),
    "oci": (r"[^/]+/.+", "oci://REGISTRY/IMAGE"),
    "oci+native": (r"[^/]+/.+", "oci+native://REGISTRY/IMAGE"),
    "hdfs": (r".+", "hdfs://PATH"),
    "webhdfs": (r".+", "webhdfs://PATH"),
    "https": (r"[^/]+/.+", "https://HOST/PATH"),
    "http": (r"[^/]+/.+", "http://HOST/PATH"),
}
GONE = (404, 410)
TIMEOUT_S = 10.0


def check_storage_uri(uri: str) -> None:
    """OptionError when nothing can be there."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in FORMS:
        raise OptionError(f"storage-uri: {uri!r} does not begin with one of {', '.join(FORMS)}")
    pattern, form = FORMS[scheme]
    if not re.fullmatch(pattern, rest):
        raise OptionError(f"storage-uri: {uri!r} is not of the form {form}")
    if scheme in ("http", "https"):
        try:
            status = httpx.head(uri, timeout=TIMEOUT_S, follow_redirects=True).status_code
        except httpx.HTTPError:
            return  # the cluster may see what this machine does not
        if status in GONE:
            raise OptionError(f"storage-uri: {uri}: HTTP {status}")
