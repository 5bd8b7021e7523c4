"""timm's image models as encoders: `timm:MODEL?pretrained=true&checkpoint=PATH&img_size=N`."""
