"""The lab's image with more packages, for tests that need them: a layer of its own, built when first asked for."""

from __future__ import annotations

import dataclasses

import lab

_INSTALL = """set -e
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod +x /usr/sbin/policy-rc.d
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages}
{configure}
rm -rf /usr/sbin/policy-rc.d /var/lib/apt/lists/* /var/cache/apt/*.bin
"""


@dataclasses.dataclass(frozen=True)
class Layer:
    """An image of this tag. `configure` are lines of a shell that run once the packages are installed."""

    tag: str
    packages: tuple[str, ...]
    configure: str = ""

    @property
    def image(self) -> str:
        return f"localhost/natlb-lab:{self.tag}"

    @property
    def script(self) -> str:
        return _INSTALL.format(packages=" ".join(self.packages), configure=self.configure)

    def recipe(self) -> str:
        """Changes when the layer has to be built anew."""
        return lab.digest([lab.recipe(), self.script])

    def build(self) -> None:
        """Build the layer unless it is what the recipe says."""
        lab.build_image()
        template = f'{{{{index .Labels "{lab.RECIPE_LABEL}"}}}}'
        found = lab.run("podman", "image", "inspect", "--format", template, self.image, check=False)
        if found.stdout.strip() == self.recipe():
            return
        lab.say(f"building the image {self.image} (about 25 s)")
        builder = f"natlb-{self.tag}-build"
        lab.run("podman", "rm", "--force", "--ignore", builder)
        lab.run("podman", "run", "--name", builder, "--network=host", lab.IMAGE, "sh", "-c", self.script)
        changes = [f"--change=LABEL {lab.RECIPE_LABEL}={self.recipe()}", '--change=CMD ["/sbin/init"]']
        lab.run("podman", "commit", *changes, builder, self.image)
        lab.run("podman", "rm", "--force", builder)
