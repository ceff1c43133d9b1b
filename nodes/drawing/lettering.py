"""Lines of text in pictures, in the font that Pillow brings along. No host."""

from PIL import Image, ImageDraw, ImageFont

PAPER, FAINT = (255, 255, 255), (95, 95, 95)

font = ImageFont.load_default


def width_of(text: str, size: float) -> float:
    """How wide a line of text is, in pixels."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    return draw.textlength(text, font=font(size))


def centred(
    text: str, area: tuple[int, int], size: float, ink: tuple[int, int, int] | str
) -> Image.Image:
    """A white picture of (width, height) with a line of text in its middle."""
    image = Image.new("RGB", area, PAPER)
    middle = area[0] / 2, area[1] / 2
    ImageDraw.Draw(image).text(middle, text, ink, font(size), anchor="mm")
    return image
