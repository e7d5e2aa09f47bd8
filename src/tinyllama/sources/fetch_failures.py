"""Why a request brought no response, in one word; and the robots.txt rules that Scrapy leaves to its user."""

from typing import Any

from scrapy.downloadermiddlewares.robotstxt import RobotsTxtMiddleware
from scrapy.exceptions import IgnoreRequest
from scrapy.http import Request, Response

# By class name: Scrapy 2.14 and later raise their own errors, earlier ones raise Twisted's.
_REASONS = {
    "DownloadTimeoutError": "timeout",
    "TimeoutError": "timeout",
    "TCPTimedOutError": "timeout",
    "CannotResolveHostError": "dns_error",
    "DNSLookupError": "dns_error",
    "DownloadCancelledError": "too_large",
    "CancelledError": "too_large",
    "ResponseDataLossError": "incomplete",
    "DownloadConnectionRefusedError": "connection_error",
    "ConnectionRefusedError": "connection_error",
    "ConnectError": "connection_error",
    "ConnectionLost": "connection_error",
    "ResponseFailed": "connection_error",
    "ResponseNeverReceived": "connection_error",
    "DownloadFailedError": "connection_error",
}


class DryRun(IgnoreRequest):
    """A dry run lets nothing but robots.txt through."""


def failure_reason(error: BaseException) -> str:
    """The reason under which a failed request is counted."""
    if isinstance(error, DryRun):
        return "dry_run"
    if isinstance(error, IgnoreRequest):
        return "robots" if "robots.txt" in str(error) else "too_large"  # the other one: a body that inflates too far
    return _REASONS.get(type(error).__name__, "fetch_error")


class Robots(RobotsTxtMiddleware):
    """Scrapy's robots.txt with RFC 9309, section 2.3.1.4: a server error forbids everything."""

    async def _parse_robots(self, response: Response, netloc: str, request: Request, *more: Any) -> None:
        if response.status >= 500:
            response = response.replace(body=b"User-agent: *\nDisallow: /\n")
        await super()._parse_robots(response, netloc, request, *more)


class StopBeforePages:
    """Downloader middleware of a dry run: stands behind the robots.txt check and stops every page."""

    def process_request(self, request: Request) -> None:
        """Raises DryRun for a page."""
        if "page" in request.meta:
            raise DryRun
