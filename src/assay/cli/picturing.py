"""`assay image`: methods on pictures of your own."""

from __future__ import annotations

import click

from assay.cli.picturing_bands import bands_command, mix_command
from assay.cli.picturing_transform import transform_command
from assay.cli.picturing_tv import a2tv_command, tv_command


@click.group("image")
def image_command() -> None:
    """Methods on your own pictures: PNG, JPEG and TIFF, with 8 or 16 bits, grey or colour.

    Alpha is kept, EXIF orientation is applied, a colour profile goes along. Nothing is overwritten without --force.
    """


for command in (tv_command, a2tv_command, bands_command, mix_command, transform_command):
    image_command.add_command(command)
