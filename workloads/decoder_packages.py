"""Packages of Debian 12 whose pages make the decoder's training text, with the licence of each."""

from typing import NamedTuple


class Package(NamedTuple):
    """A package of Debian 12 and its pages: a regular expression of the paths to take, and one of those to leave."""

    name: str
    version: str
    licence: str
    take: str
    sha256: str
    leave: str = r"$^"


HTML = r"\.html$"
RUST = (
    r"/html/(?:book|reference|nomicon|rust-by-example|edition-guide|embedded-book|rustc|rustdoc|unstable-book|std)"
    r"/.*\.html$"
)
PACKAGES = (
    Package(
        "python3.11-doc",
        "3.11.2-6+deb12u9",
        "PSF-2.0",
        HTML,
        "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
    ),
    Package(
        "postgresql-doc-15",
        "15.20-0+deb12u1",
        "PostgreSQL",
        HTML,
        "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
    ),
    Package(
        "sqlite3-doc",
        "3.40.1-2+deb12u2",
        "public domain",
        HTML,
        "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
    ),
    Package(
        "python-django-doc",
        "3:3.2.25-0+deb12u7",
        "BSD-3-Clause",
        HTML,
        "87307f067916df72e17180d35b7cde5c7ea6080336cda518efd7f6e66988a7ca",
    ),
    Package(
        "rust-doc",
        "1.63.0+dfsg1-2",
        "MIT or Apache-2.0",
        RUST,
        "96ef96fe6df87d939ca713bd7df3d15c2b778ccb892eca025c4ee504146f697b",
        r"/book/(?:first|second|2018)-edition/",
    ),
    Package(
        "apache2-doc",
        "2.4.71-1~deb12u1",
        "Apache-2.0",
        r"/manual/en/.*\.html$",
        "a7b3d1131c1c63dbf9999b28e75f9a133d30f70492b419936bd51759ac77a01f",
    ),
    Package(
        "nodejs-doc",
        "18.20.4+dfsg-1~deb12u3",
        "MIT",
        HTML,
        "d2fbd4f3aecccea9d901a03842ef8380379e0d33010a48af5e797ed68ae874ce",
    ),
    Package(
        "cmake-doc",
        "3.25.1-1",
        "BSD-3-Clause",
        HTML,
        "6e805a758ffed87cc7ea234cf0a7a1bb8ae78b93d8b5783e7fb989a6320f8133",
    ),
    Package(
        "llvm-14-doc",
        "1:14.0.6-12",
        "Apache-2.0 with LLVM exception",
        HTML,
        "d83d576ccf39dd9c698f983677f5569284cb4d55f084dd135859a73d31910b1a",
    ),
    Package(
        "clang-14-doc",
        "1:14.0.6-12",
        "Apache-2.0 with LLVM exception",
        HTML,
        "9d4160c5cdb3e240fc676eacba163481002363f9532f854bc09e3eb566eb5c0f",
    ),
    Package(
        "python-tornado-doc",
        "6.2.0-3+deb12u4",
        "Apache-2.0",
        HTML,
        "854ca846655975838c1c8c5058b31a46f963e3bcd229b5e2b209b28fffd50c9f",
    ),
    Package(
        "python-sklearn-doc",
        "1.2.1+dfsg-1",
        "BSD-3-Clause",
        HTML,
        "4e244556326064e87e7563e3e544c2288d44b5719db2d7b3a85c9a84ae93488d",
    ),
    Package(
        "python-pandas-doc",
        "1.5.3+dfsg-2",
        "BSD-3-Clause",
        HTML,
        "4998405ff6b12432f46594963e95554ade1104705795428396345fca58d853f8",
    ),
    Package(
        "erlang-doc",
        "1:25.2.3+dfsg-1+deb12u4",
        "Apache-2.0",
        HTML,
        "7d172cecfdd9c2930b27c776ad226ffcc84670375cf830c79ee41c6944e8a1c8",
    ),
    Package(
        "jargon",
        "4.0.0-5.3",
        "public domain",
        r"jargon\.info\.gz$",
        "6f4db0f1a4f2b658d8a09e89fdb1814ad1487854463f01dc9158267811d4650f",
    ),
)
