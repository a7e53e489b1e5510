"""Words that people would try, and the subjects that they mean: written and read by hand.

Subjects are called by the canonical names of `words.py`. An alias means one subject only, and is
no canonical name itself.
"""

from __future__ import annotations

_OF_SUBJECTS = """
cat face: kitten, kitty cat, pussycat; cat: tomcat, house cat, tabby, feline; dog face: puppy, pup,
puppy dog; dog: hound, mutt, doggy, canine; rabbit face: bunny, bunny rabbit; rabbit: hare; pig
face: piglet, piggy; pig: hog, swine; cow face: calf; cow: cattle, milk cow; ox: bull, steer; horse:
pony, racehorse, stallion, mare; horse face: foal, horse head; mouse: field mouse; ewe: sheep, lamb;
ram: male sheep; goat: billy goat; monkey: chimp, chimpanzee; gorilla: silverback; bear: brown bear;
panda: panda bear, giant panda; koala: koala bear; lion: lion face, lioness; tiger face: tiger head,
tiger cub; leopard: cheetah, jaguar; elephant: african elephant; mammoth: woolly mammoth;
rhinoceros: rhino; hippopotamus: hippo; deer: stag, reindeer, doe; moose: elk; bison: american
buffalo; donkey: mule, burro; llama: alpaca; chipmunk: squirrel; hedgehog: porcupine, hedge hog;
fox: red fox; wolf: gray wolf, grey wolf; hamster: guinea pig, gerbil; bird: songbird, sparrow,
robin; dove: pigeon; eagle: hawk, falcon, bird of prey; chicken: hen; rooster: cock, cockerel; baby
chick: chick; owl: night owl; parrot: macaw; duck: mallard; frog: toad; crocodile: alligator, croc;
turtle: sea turtle; lizard: gecko, salamander; snake: serpent, python, cobra, viper; sauropod:
long-necked dinosaur, brontosaur, brachiosaur; t-rex: t rex, trex, tyrannosaurus rex; fish: trout,
salmon; tropical fish: angelfish, clownfish; blowfish: pufferfish, puffer fish; shark: great white
shark; whale: blue whale; dolphin: porpoise; seal: sea lion; octopus: kraken; spiral shell:
seashell, sea shell; bug: caterpillar; honeybee: honey bee; lady beetle: lady bug; spider:
tarantula; spider web: cobweb, spiderweb; butterfly: moth; paw prints: paw print; unicorn: unicorn
face, unicorn head; dragon: chinese dragon; blossom: flower, daisy; cherry blossom: sakura; rose:
red rose; sunflower: sun flower; bouquet: bunch of flowers, flowers, flower bouquet; deciduous tree:
tree, oak, oak tree; evergreen tree: pine tree, fir tree, conifer, pine; palm tree: coconut tree;
four leaf clover: four-leaf clover, lucky clover; fallen leaf: autumn leaf, autumn leaves; leaf
fluttering in wind: leaf, leaves, green leaf; sheaf of rice: ear of rice, wheat, sheaf of wheat;
potted plant: houseplant, pot plant, house plant; mushroom: red mushroom; wood: firewood; cactus:
saguaro; red apple: apple; tangerine: orange fruit, mandarin, clementine, satsuma; melon: honeydew;
watermelon: slice of watermelon; cherries: cherry; blueberries: blueberry; beans: bean; ear of corn:
corn, corn on the cob, sweetcorn; hot pepper: chili, chilli, chili pepper, chilli pepper; bell
pepper: capsicum, sweet pepper; leafy green: salad leaf, cabbage, spinach; green salad: salad;
ginger root: ginger; pea pod: peas, pea; cheese wedge: cheese, slice of cheese; meat on bone: meat,
ham, leg of ham; poultry leg: chicken leg, chicken drumstick; cut of meat: beef, beefsteak; egg:
fried egg; hamburger: cheeseburger; pizza: slice of pizza, pizza slice; sandwich: sub sandwich;
stuffed flatbread: kebab, pita, doner; flatbread: naan; cooked rice: rice, bowl of rice; curry rice:
curry and rice; rice ball: onigiri; steaming bowl: noodles, bowl of noodles, noodle soup, soup;
bento box: lunch box, lunchbox; fried shrimp: fried prawn; soft ice cream: ice cream cone, soft
serve; ice cream: sundae, ice cream bowl; shaved ice: snow cone; birthday cake: cake; shortcake:
slice of cake, piece of cake, strawberry cake, cheesecake; cupcake: muffin; cookie: biscuit,
chocolate chip cookie; chocolate bar: chocolate, bar of chocolate; candy: sweets, bonbon; lollipop:
lolly, lollypop; custard: flan, creme caramel; honey pot: honey, pot of honey, jar of honey; pie:
apple pie, pumpkin pie; hot beverage: cup of coffee, coffee cup, hot chocolate, cocoa, espresso;
teacup without handle: tea, cup of tea, green tea; teapot: tea pot, kettle; sake: sake bottle;
bottle with popping cork: champagne, champagne bottle, bottle of champagne; wine glass: red wine,
glass of wine; cocktail glass: cocktail; tropical drink: pina colada, mai tai; beer mug: beer, mug
of beer, pint of beer; clinking beer mugs: beers, two beers; tumbler glass: glass of whisky, glass
of whiskey; glass of milk: milk; cup with straw: soft drink, milkshake, cola; beverage box: juice,
juice box; bubble tea: boba tea, milk tea; fork and knife: knife and fork; kitchen knife: knife,
chef knife, cleaver; fork and knife with plate: dinner plate, place setting; pot of food: cooking
pot, casserole dish; cooking: frying pan, pan; amphora: vase, clay jug; jar: glass jar, empty jar;
canned food: tin can, can of food; popcorn: bag of popcorn; automobile: car, sedan; oncoming
automobile: front of a car; racing car: race car, formula one car, f1 car, racecar; sport utility
vehicle: suv, jeep; taxi: cab, taxicab, taxi cab; delivery truck: truck, box truck, moving truck;
articulated lorry: semi truck, tractor trailer, eighteen wheeler; pickup truck: pick-up truck; fire
engine: fire truck, firetruck; bus: school bus, coach bus; minibus: minivan, camper van; motorcycle:
motorbike, racing motorcycle; motor scooter: moped, vespa; kick scooter: scooter, push scooter;
bicycle: bike, push bike, cycle; locomotive: steam engine, steam train, steam locomotive; high-speed
train: shinkansen, fast train; metro: subway train, underground train; tram: streetcar, trolley;
airplane: plane, aeroplane, jet plane, aircraft, airliner; small airplane: propeller plane, small
plane; helicopter: chopper; rocket: spaceship, space rocket, spacecraft, rocket ship, space ship;
flying saucer: ufo, alien ship; satellite: space satellite, sputnik, space probe; satellite antenna:
satellite dish, radar dish; sailboat: boat, sailing boat, sailing ship; ship: ocean liner,
steamship; passenger ship: cruise ship, cruise liner; canoe: kayak; ring buoy: life buoy, lifebuoy,
life ring, life preserver; fuel pump: gas pump, petrol pump, gas station, petrol station; vertical
traffic light: traffic light, stoplight, traffic signal, traffic lights; police car light: siren,
police light; railway track: train track, railroad, railroad track, train tracks; motorized
wheelchair: electric wheelchair, power wheelchair; manual wheelchair: wheelchair; house: home,
cottage; houses: neighborhood, village; derelict house: haunted house, abandoned house; office
building: skyscraper, office block, tower block; castle: fortress, palace, european castle; japanese
castle: pagoda; classical building: greek temple, museum, parthenon; stadium: arena; hut: straw hut;
shinto shrine: torii, torii gate; church: chapel, cathedral; statue of liberty: lady liberty,
liberty statue; mount fuji: mt fuji; snow-capped mountain: snowy mountain; volcano: erupting
volcano; beach with umbrella: beach; desert island: tropical island; cityscape: city, skyline;
ferris wheel: big wheel; carousel horse: merry-go-round, merry go round; roller coaster:
rollercoaster; circus tent: circus, big top; moai: easter island head, easter island statue; hotel:
motel; sun with face: smiling sun, sun face; crescent moon: moon; full moon face: moon face, man in
the moon; cloud with rain: rain, rain cloud, raincloud; cloud with snow: snow cloud; cloud with
lightning: lightning cloud, storm cloud; high voltage: lightning, lightning bolt, thunder, bolt of
lightning; closed umbrella: folded umbrella; umbrella with rain drops: umbrella in the rain;
snowflake: snow flake; snowman without snow: plain snowman; droplet: drop of water, water drop,
raindrop, drop; water wave: wave, sea, ocean, ocean wave; fire: flames, campfire, bonfire; shooting
star: falling star; comet: meteor; star: yellow star, gold star; glowing star: shining star; milky
way: galaxy, night sky; globe showing americas: earth, globe, planet earth; tornado: twister;
slightly smiling face: smiley, smiley face; smiling face with smiling eyes: happy face, blushing
face; face with tears of joy: laughing face, crying laughing face; slightly frowning face: sad face;
crying face: sad crying face; loudly crying face: sobbing face, bawling face; angry face: mad face;
smiling face with heart-eyes: heart eyes, heart-eyes, love face; smiling face with sunglasses: cool
face, face with sunglasses; smiling face with horns: devil, devil face; angry face with horns:
demon, angry devil; smiling face with halo: angel face; face screaming in fear: scared face,
screaming face; face blowing a kiss: blowing a kiss; face vomiting: vomiting face; star-struck: star
eyes, starstruck face; cowboy hat face: cowboy face; exploding head: mind blown face; pile of poo:
poop; skull: human skull; robot: robot head, android, bot; alien: extraterrestrial; alien monster:
space invader; ghost: phantom, spook; ogre: oni, red monster; goblin: tengu; clown face: circus
clown; mage: wizard, witch, magician; merperson: mermaid, merman; baby angel: angel, cherub; genie:
djinni; superhero: super hero; supervillain: super villain; santa claus: santa, father christmas,
saint nicholas; mrs claus: mother christmas; person with crown: king, queen, monarch; police
officer: policeman, policewoman; guard: royal guard, guardsman; construction worker: builder;
detective: spy, private eye, investigator; person in tuxedo: groom; person with veil: bride; old
man: elderly man, grandad, granddad; old woman: elderly woman, old lady; woman dancing: dancer,
flamenco dancer; person running: runner; person surfing: surfer; person biking: cyclist, biker;
person mountain biking: mountain biker; person juggling: juggler; people wrestling: wrestlers;
person walking: pedestrian; person golfing: golfer; person lifting weights: weight lifter,
bodybuilder; person in lotus position: meditating person; flexed biceps: bicep, strong arm;
anatomical heart: human heart; mouth: lips; thumbs up: thumb up, like button; thumbs down: thumb
down; raised fist: fist; oncoming fist: fist bump, punch; waving hand: hello hand, wave hello;
raised hand: hand, palm of a hand, high five; folded hands: praying hands, prayer; victory hand: v
sign; clapping hands: clap; handshake: hand shake, shaking hands; ok hand: okay hand; nail polish:
painted nails; red heart: heart, love heart; broken heart: heartbreak; heart with arrow: arrow
through a heart; collision: boom, explosion; speech balloon: speech bubble, chat bubble; thought
balloon: thought bubble; kiss mark: lipstick kiss, lipstick mark; zzz: snoring; mobile phone: phone,
cell phone, cellphone, smartphone, iphone; telephone: landline, rotary phone, old phone; telephone
receiver: phone receiver, handset; laptop: laptop computer, notebook computer; desktop computer:
computer, computer screen, computer monitor, pc; computer mouse: pc mouse; keyboard: computer
keyboard; optical disk: cd, compact disc, compact disk; floppy disk: diskette; computer disk:
minidisc; video game: gamepad, game controller, video game controller; camera: photo camera; movie
camera: film camera; film projector: movie projector; television: television set, tv set;
mantelpiece clock: clock; watch: wristwatch, wrist watch; hourglass done: hourglass, sand timer,
sandglass; timer clock: kitchen timer, timer; light bulb: lightbulb, lamp; red paper lantern:
lantern, paper lantern, chinese lantern; closed book: red book, book; books: pile of books, stack of
books; scroll: parchment; envelope: letter, mail; package: cardboard box, parcel; postbox: post box,
letterbox; closed mailbox with raised flag: mailbox; wastebasket: trash can, dustbin, garbage can,
rubbish bin; pushpin: thumbtack, drawing pin, push pin; round pushpin: map pin; paperclip: paper
clip; straight ruler: ruler; triangular ruler: set square; pencil: lead pencil; pen: ballpoint pen,
biro; fountain pen: ink pen; paintbrush: paint brush; artist palette: paint palette; framed picture:
painting, picture frame; locked: padlock, lock, closed lock; unlocked: open lock, open padlock; key:
door key; old key: antique key, skeleton key; magnifying glass tilted left: magnifying glass,
magnifier, loupe; money bag: bag of money, sack of money; dollar banknote: dollar bill, dollar note;
euro banknote: euro note, euros; pound banknote: pound note; yen banknote: yen note; money with
wings: flying money; coin: gold coin, coins; gem stone: diamond, gemstone, crystal, sapphire, jewel;
ring: wedding ring, diamond ring, engagement ring; crown: king crown, gold crown, tiara; top hat:
magician hat; billed cap: baseball cap, cap; graduation cap: mortarboard; womans hat: sun hat, straw
hat; rescue workers helmet: red cross helmet; t-shirt: shirt, t shirt, tee shirt, polo shirt; coat:
jacket; jeans: pants, blue jeans; running shoe: trainer, tennis shoe, sports shoe; mans shoe: dress
shoe, shoe; womans boot: boot; womans sandal: sandal; thong sandal: flip flop, flip-flop;
high-heeled shoe: high heel, high heels; hiking boot: walking boot; glasses: spectacles, reading
glasses; necktie: tie; purse: wallet; handbag: hand bag; backpack: school bag, schoolbag, knapsack;
one-piece swimsuit: swimsuit, bathing suit; luggage: suitcase; briefcase: attache case; bed: single
bed; couch and lamp: sofa, couch, settee; chair: wooden chair; shopping cart: shopping trolley,
trolley cart; bathtub: bath, tub, bath tub; roll of paper: toilet paper, toilet roll; broom:
broomstick, witch broom; soap: bar of soap; wrench: spanner; hammer and wrench: tools; pick:
pickaxe, pick axe; crossed swords: sword, swords; dagger: short sword, dirk; bow and arrow: archer
bow; water pistol: squirt gun, toy gun, water gun; bomb: cartoon bomb; gear: cog wheel; balance
scale: scales, scale, weighing scale; electric plug: power plug, power cord; battery: full battery;
syringe: injection; pill: capsule, tablet; adhesive bandage: bandage, plaster, band aid, band-aid;
drop of blood: blood, blood drop; test tube: vial; alembic: chemistry flask, flask; dna: double
helix, dna strand; crystal ball: fortune teller ball; magic wand: wizard wand; wrapped gift: gift,
gift box, birthday present; party popper: confetti cannon; jack-o-lantern: pumpkin, halloween
pumpkin, jack o lantern; christmas tree: xmas tree; ribbon: pink bow; trophy: trophy cup, gold cup,
winners cup; 1st place medal: gold medal, first place medal; 2nd place medal: silver medal, second
place medal; 3rd place medal: bronze medal, third place medal; bullseye: dartboard, target, bulls
eye; game die: dice, die; joker: playing card, joker card; pool 8 ball: eight ball, 8 ball, billiard
ball; chess pawn: pawn, chess piece; puzzle piece: jigsaw piece; teddy bear: stuffed bear, toy bear,
stuffed animal; nesting dolls: matryoshka doll, russian doll, russian dolls; mirror ball: disco
ball; soccer ball: football, soccer; american football: nfl football; tennis: tennis ball, tennis
racket, tennis racquet; ping pong: table tennis, ping pong paddle, table tennis bat; bowling:
bowling ball, bowling pins; cricket game: cricket bat; ice hockey: hockey stick, hockey; badminton:
badminton racket; flying disc: frisbee; boxing glove: boxing gloves; fishing pole: fishing rod;
diving mask: snorkel; skis: ski, pair of skis; sled: sledge, sleigh; ice skate: ice skates; roller
skate: roller skates, rollerskate; guitar: electric guitar, acoustic guitar; violin: fiddle; musical
keyboard: piano, piano keys, synthesizer; drum: snare drum, drum kit; trumpet: bugle; long drum:
conga drum, bongo; headphone: headphones, headset, earphones; musical note: music note, eighth note;
musical notes: music notes, music; level slider: slider; bell: church bell, golden bell; bellhop
bell: reception bell, desk bell; megaphone: bullhorn; white flag: flag of surrender; chequered flag:
checkered flag, racing flag; triangular flag: red flag, flag; performing arts: theater masks,
theatre masks, comedy and tragedy masks; hundred points: 100, one hundred; headstone: gravestone,
tombstone, grave; coffin: casket; folding hand fan: hand fan, fan; identification card: id card;
magnet: horseshoe magnet; hook: fish hook; yarn: ball of yarn, wool, ball of wool; thread: spool of
thread; sewing needle: needle and thread; chart increasing: rising chart, growth chart; chart
decreasing: falling chart; bar chart: bar graph; check mark: checkmark, tick, tick mark; cross mark:
red x; red question mark: question mark; red exclamation mark: exclamation mark, exclamation point;
heavy dollar sign: dollar sign, dollar symbol; heavy equals sign: equals sign, equal sign; plus:
plus sign; minus: minus sign; multiply: multiplication sign, times sign; divide: division sign;
radioactive: radioactive sign, radiation sign, nuclear sign; biohazard: biohazard sign; warning:
warning sign; no entry: no entry sign; no smoking: no smoking sign; peace symbol: peace sign; yin
yang: yin and yang; star of david: jewish star; latin cross: christian cross, crucifix; recycling
symbol: recycle sign, recycling sign; water closet: wc; restroom: bathroom sign, toilet sign;
wheelchair symbol: wheelchair sign, disabled sign; information: information sign; copyright:
copyright sign; trade mark: trademark sign; registered: registered sign; infinity: infinity sign; p
button: parking sign; first quarter moon: half moon; playground slide: slide; credit card: bank
card; door: wooden door; mirror: looking glass; bucket: pail; basket: wicker basket; toilet: loo,
lavatory; elevator: lift; sunglasses: shades; dress: gown; bikini: two-piece swimsuit; gloves:
mittens, glove; socks: sock; grapes: bunch of grapes; avocado: avocado half; burrito: wrap; bacon:
bacon strips, rashers; butter: stick of butter; oyster: clam, pearl oyster; shrimp: prawn; lobster:
crayfish; coral: coral reef; sunrise: dawn; anchor: ship anchor; ladder: stepladder; trident emblem:
trident; yo-yo: yoyo; crayon: wax crayon; scissors: pair of scissors; eyes: pair of eyes; briefs:
underpants; bubbles: soap bubbles; fog: mist; hole: pit; person: human; man: guy, gentleman; woman:
lady; boy: little boy; girl: little girl; baby: infant, toddler; child: kid; ninja: shinobi; busts
in silhouette: users; bust in silhouette: user, user icon; index pointing up: pointing finger; eye:
eyeball; flamingo: pink flamingo; kangaroo: wallaby; bat: vampire bat; orangutan: ape; mosquito:
gnat; beetle: scarab; microbe: germ, bacteria, virus; feather: quill; lotus: water lily; shamrock:
three leaf clover; wilted flower: dead flower; empty nest: bird nest, nest; nest with eggs: eggs in
a nest; camping: campsite; station: train station; construction: roadblock, barricade; oil drum: oil
barrel, barrel; snowman: snow man; reminder ribbon: awareness ribbon; microphone: mic; control
knobs: knobs; radio: boombox; maracas: maraca; pager: beeper; dvd: dvd disc; film frames: film
strip, filmstrip; clapper board: clapperboard; diya lamp: oil lamp; page facing up: sheet of paper,
document, paper; memo: note, pencil and paper; file folder: folder; link: chain link; toolbox: tool
box; x-ray: xray; placard: protest sign; speaking head: talking head; light rail: light rail train;
tram car: tramcar; ice: ice block; speedboat: power boat; raccoon: racoon; cricket: locust;
umbrella: open umbrella; seat: airplane seat
"""

ALIASES: dict[str, str] = {
    word.strip(): entry.partition(":")[0].strip()
    for entry in " ".join(_OF_SUBJECTS.split()).split(";")
    for word in entry.partition(":")[2].split(",")
}
"""Word or phrase -> canonical name of the subject."""

_KEYWORDS = """
ale amoeba ax babushka baguette beads bee biceps boba bookbag boulder brachiosaurus bridge
brontosaurus bulb bumblebee buoy burger buttercup cabinet cableway camcorder candelabrum
candlestick cantaloupe carousel cart cartwheel casserole cereal chai chain chime clapper climber
clover clubs coffee cog cogwheel comb concertina conch conga controller cop cowboy cowgirl
cracker crossbones cutlery dandelion diplodocus donut dracula dromedary dynamite earbud
earthworm empanada evergreen fife floppy footprint frankfurter fries fungus garbage gem
grandfather grandma grandmother grandpa granny grape grasshopper grizzly guanaco gun gymnastics
handgun hatchet hero highway honeypot hotcake hotdog hotsprings hurricane interrobang invoice
jet jigsaw jinn jockey judo jug kale karate kitty kiwi ladybird ladybug lambchop lettuce
lifesaver loaf locker log lorry luge maize maple martini matryoshka minidisk motorboat mousetrap
necklace nerd noodle notepad oatmeal paella palette pancake pasta paw peanut pepperoni pho
piccolo pickle pickup pierogi pills pingpong pint pixie planet plate plug plumage plush poo
porkchop porridge potsticker present projector pudding ramen revolver rickshaw roach road
rolodex rucksack sapling satchel saturn sausage saw sax scotch shampoo shell shrine shuttlecock
skates sleuth slipper sneaker snout soda sorcerer sorceress spool sprout squeezebox steak stew
stiletto stocking subway sunscreen tag takeout talisman teacup teddy tempura terrapin
thunderbolt thunderstorm timber tire toadstool toast toboggan tomb tophat torch tortoise tower
trademark tramway trash tumbler turd tv typhoon tyrannosaurus urn van villain wand whirlwind
whiskey whisky worker yacht yurt
"""
KEYWORDS = frozenset(_KEYWORDS.split())
"""CLDR's keywords of one subject which name that subject: read by hand, out of some 1,900."""
