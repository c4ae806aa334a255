"""The paper's service: each request pixelates a picture (Bottle behind Apache).

GET /?block=16 answers a PNG in which squares of 16 by 16 pixels have one colour; `side` is the picture's width. The work
of a request is done anew each time, so that load costs processor time. X-Replica tells who answered.
"""

import io
import os

import bottle
from PIL import Image

LARGEST_SIDE = 1024
DEFAULT_SIDE = 160
DEFAULT_BLOCK = 8


def picture(side):
    """A radial gradient in three colours: something to see, without a file to carry."""
    wheel = Image.radial_gradient("L").resize((side, side))
    return Image.merge("RGB", (wheel, wheel.transpose(Image.Transpose.ROTATE_90).point(lambda v: 255 - v), wheel))


PICTURES = {DEFAULT_SIDE: picture(DEFAULT_SIDE)}


def number(name, default, largest):
    try:
        value = int(bottle.request.query.get(name, default))
    except ValueError:
        value = 0
    if not 1 <= value <= largest:
        raise bottle.HTTPError(400, f"{name} must be a whole number from 1 to {largest}")
    return value


@bottle.get("/")
def mosaic():
    side = number("side", DEFAULT_SIDE, LARGEST_SIDE)
    block = number("block", DEFAULT_BLOCK, LARGEST_SIDE)
    source = PICTURES.get(side) or picture(side)
    # Average by hand what a block covers: the paper's service computes in Python, and this is its load.
    pixels = source.load()
    result = Image.new("RGB", source.size)
    for top in range(0, side, block):
        for left in range(0, side, block):
            box = (left, top, min(left + block, side), min(top + block, side))
            count = (box[2] - box[0]) * (box[3] - box[1])
            totals = [0, 0, 0]
            for y in range(box[1], box[3]):
                for x in range(box[0], box[2]):
                    red, green, blue = pixels[x, y]
                    totals[0] += red
                    totals[1] += green
                    totals[2] += blue
            result.paste(tuple(total // count for total in totals), box)
    answer = io.BytesIO()
    result.save(answer, "PNG")
    bottle.response.content_type = "image/png"
    bottle.response.set_header("X-Replica", os.environ.get("HOSTNAME", ""))
    return answer.getvalue()


application = bottle.default_app()
